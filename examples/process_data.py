"""Take the median over the first axis of a FITS image or cube.

    python process_data.py INPUT OUTPUT

The script runs in every container image that has astropy. It uses the first FITS image in the file, in any HDU and with
any compression, and ignores pixels without a value. It writes a whole file or none, so a killed job leaves no partial
result, and a second run does no harm.
"""

from __future__ import annotations

import re
import secrets
import sys
import warnings
from pathlib import Path

import numpy as np
from astropy.io import fits


class NothingToDo(Exception):
    """The file has no image with two or more axes."""


def first_image(hdus: fits.HDUList) -> fits.PrimaryHDU | fits.ImageHDU | fits.CompImageHDU:
    """Return the first image with at least two axes; many files have it after an empty primary HDU."""
    for hdu in hdus:
        if isinstance(hdu, fits.GroupsHDU) or not hdu.is_image:
            continue
        if len(hdu.shape) >= 2 and 0 not in hdu.shape:
            return hdu
    raise NothingToDo("the file has no image with two or more axes")


def without_axis(header: fits.Header, axis: int) -> fits.Header:
    """Return the header without keywords of *axis* (from 1, as in FITS) and of the storage of the data."""
    dropped = re.compile(rf"(CTYPE|CUNIT|CRVAL|CRPIX|CDELT|CROTA|CNAME){axis}|(PC|CD){axis}_\d+|(PC|CD)\d+_{axis}")
    stored = {"BSCALE", "BZERO", "BLANK", "CHECKSUM", "DATASUM", "EXTNAME", "EXTVER", "WCSAXES", "DATAMIN", "DATAMAX"}
    kept = header.copy(strip=True)
    for name in [name for name in kept if name in stored or dropped.fullmatch(name)]:
        del kept[name]
    return kept


def median_image(source: Path) -> fits.PrimaryHDU:
    """Return the median over the first axis (in NumPy's order) of the first image in *source*."""
    with fits.open(source) as hdus:
        image = first_image(hdus)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)  # a pixel without any value stays NaN
            median = np.nanmedian(image.data, axis=0)
        header = without_axis(image.header, axis=len(image.shape))
        header.add_history(f"median over the first axis of {source.name}, shape {image.shape}")
    return fits.PrimaryHDU(median, header)


def write_at_once(hdu: fits.PrimaryHDU, target: Path) -> None:
    """Write to a temporary file and rename it to *target*, so that two runs may overlap."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        hdu.writeto(part, output_verify="silentfix")
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def main(arguments: list[str]) -> int:
    if len(arguments) != 2:
        print("usage: python process_data.py INPUT OUTPUT", file=sys.stderr)
        return 2
    source, target = map(Path, arguments)
    try:
        hdu = median_image(source)
        write_at_once(hdu, target)
    except (NothingToDo, OSError, ValueError, MemoryError) as error:
        print(f"error: {source} was not processed: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    print(f"processed {source} -> {target}, shape {hdu.shape}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
