#!/usr/bin/env python3
"""The median of many FITS images, pixel by pixel, in as little memory as you like.

    fits-stack.py OUTPUT INPUT [INPUT...] [--memory 1.0]
    fits-stack.py OUTPUT @LIST [--memory 1.0]

The first image of each file is taken; all must have the same shape, and be aligned already. Pixels without a value
(NaN, or BLANK) are left out; one that no image has stays NaN. LIST is a text file with one path per line, for more
images than a command line can hold. The header is the first image's. The images are read in strips, so that the memory
needed is not that of all of them together. The image needs astropy 5.3 and Python 3.8, or newer.
"""

import argparse
import logging
import os
import sys
import warnings
from pathlib import Path

import numpy as np
from astropy.io import fits

# the platform sets skaha_sessionid; its guide reads SKAHA_SESSION_ID
JOB = os.environ.get("skaha_sessionid") or os.environ.get("SKAHA_SESSION_ID") or "unknown"  # noqa: SIM112

GIB = 1024**3
COPIES = 4  # a median sorts one copy of its input, and masks another
#: header entries on how the pixels of the first image were stored
OF_ONE_IMAGE = ("BSCALE", "BZERO", "BLANK", "CHECKSUM", "DATASUM", "DATAMIN", "DATAMAX", "EXTNAME", "EXTVER", "INHERIT")

log = logging.getLogger("job")


def first_image(hdus, path):
    """Return the first image with at least two axes: many files have an empty primary HDU before it."""
    for hdu in hdus:
        if not isinstance(hdu, fits.GroupsHDU) and hdu.is_image and len(hdu.shape) >= 2 and 0 not in hdu.shape:
            return hdu
    raise ValueError(f"{path} holds no image")


def survey(paths):
    """Return the shape of all images, a type that holds all their pixels, and the header of the first image."""
    header, shape, kinds = None, None, set()
    for path in paths:
        with fits.open(path, memmap=False) as hdus:
            image = first_image(hdus, path)
            if header is None:
                header, shape = image.header.copy(strip=True), image.shape
            if image.shape != shape:
                raise ValueError(f"{path} is {image.shape}, and {paths[0]} is {shape}: they cannot be stacked")
            kinds.add(image.section[:1].dtype.newbyteorder("="))
    for name in OF_ONE_IMAGE:
        header.remove(name, ignore_missing=True, remove_all=True)
    return header, shape, np.result_type(np.float32, *kinds)


def stack(paths, shape, kind, memory):
    """Return the median over all images, strip by strip, with one strip of all images in memory at a time."""
    row = len(paths) * int(np.prod(shape[1:])) * kind.itemsize * COPIES
    rows = int(min(shape[0], max(1, memory * GIB // row)))
    log.info("stacking %d images of %s in %d strips", len(paths), shape, -(-shape[0] // rows))
    if row > memory * GIB:
        log.warning("a single row of all images takes %.2f GiB, more than --memory", row / GIB)
    median = np.empty(shape, kind)
    strip = np.empty((len(paths), rows, *shape[1:]), kind)
    for begin in range(0, shape[0], rows):
        end = min(begin + rows, shape[0])
        for place, path in enumerate(paths):
            with fits.open(path, memmap=False) as hdus:
                strip[place, : end - begin] = first_image(hdus, path).section[begin:end]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)  # missing in every image: it stays NaN
            median[begin:end] = np.nanmedian(strip[:, : end - begin], axis=0)
    return median


def write_whole(target, hdu):
    """Write to a temporary file and rename it, so that there is never half a file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name[:40]}.{os.urandom(6).hex()}.part")
    try:
        with part.open("wb") as file:
            hdu.writeto(file, output_verify="silentfix", checksum=True)
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
    finally:
        if part.exists():
            part.unlink()


def read_arguments():
    parser = argparse.ArgumentParser(description="The median of FITS images.", fromfile_prefix_chars="@")
    parser.add_argument("output", type=Path, help="the FITS file to write")
    parser.add_argument("inputs", type=Path, nargs="+", metavar="input", help="FITS files, or @LIST")
    parser.add_argument("--memory", type=float, default=1.0, help="GiB for the images' pixels (default: %(default)s)")
    options = parser.parse_args()
    missing = [str(path) for path in options.inputs if not path.is_file()]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        parser.error(f"not there: {', '.join(missing[:3])}{more}; a path is looked for from {Path.cwd()}")
    if options.output.is_dir():
        parser.error(f"{options.output} is a directory; name a file in it")
    if options.output.resolve() in {path.resolve() for path in options.inputs}:
        parser.error(f"{options.output} is an input as well, and would be replaced")
    if not options.memory > 0:
        parser.error(f"--memory {options.memory}: it is a positive number of GiB")
    return options


def main():
    options = read_arguments()
    logging.basicConfig(level=logging.INFO, format=f"%(asctime)s - {JOB} - %(levelname)s - %(message)s")
    log.info("job %s stacks %d images", JOB, len(options.inputs))
    try:
        header, shape, kind = survey(options.inputs)
        median = stack(options.inputs, shape, kind, options.memory)
        header["NCOMBINE"] = (len(options.inputs), "number of images in the median")
        header.add_history(f"median of {len(options.inputs)} images, by job {JOB}")
        for path in options.inputs:
            header.add_history(path.name.encode("ascii", "replace").decode())
        write_whole(options.output, fits.PrimaryHDU(median, header))
    except Exception:
        log.exception("the job failed")
        return 1
    log.info("the stack is in %s", options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
