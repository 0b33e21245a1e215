"""The median over the first axis of a FITS image or cube.

    python process_data.py INPUT OUTPUT

It runs as it stands in every image that has astropy. The first image found in the file is taken, wherever it is and
however it is compressed; pixels without a value are left out. The output appears whole or not at all, so a job that was
killed leaves nothing behind that looks like a result, and a second run does no harm.
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
    """The file holds no image of which a median over an axis could be taken."""


def first_image(hdus: fits.HDUList) -> fits.PrimaryHDU | fits.ImageHDU | fits.CompImageHDU:
    """The first image with at least two axes: many files keep theirs behind an empty primary HDU."""
    for hdu in hdus:
        if isinstance(hdu, fits.GroupsHDU) or not hdu.is_image:
            continue
        if len(hdu.shape) >= 2 and 0 not in hdu.shape:
            return hdu
    raise NothingToDo("there is no image with two or more axes in it")


def without_axis(header: fits.Header, axis: int) -> fits.Header:
    """A header that no longer speaks of *axis* (counted as FITS does, from 1), nor of how the data were stored."""
    gone = re.compile(rf"(CTYPE|CUNIT|CRVAL|CRPIX|CDELT|CROTA|CNAME){axis}|(PC|CD){axis}_\d+|(PC|CD)\d+_{axis}")
    stored = {"BSCALE", "BZERO", "BLANK", "CHECKSUM", "DATASUM", "EXTNAME", "EXTVER", "WCSAXES", "DATAMIN", "DATAMAX"}
    kept = header.copy(strip=True)
    for name in [name for name in kept if name in stored or gone.fullmatch(name)]:
        del kept[name]
    return kept


def median_image(source: Path) -> fits.PrimaryHDU:
    """The median over the first axis (the last in FITS' own count) of the first image in *source*."""
    with fits.open(source) as hdus:
        image = first_image(hdus)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)  # no value at all: NaN it stays
            median = np.nanmedian(image.data, axis=0)
        header = without_axis(image.header, axis=len(image.shape))
        header.add_history(f"median over the first axis of {source.name}, shape {image.shape}")
    return fits.PrimaryHDU(median, header)


def write_at_once(hdu: fits.PrimaryHDU, target: Path) -> None:
    """Write beside *target* and rename: nobody ever sees half a file, not even if two runs of the job overlap."""
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
