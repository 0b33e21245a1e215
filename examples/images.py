"""Images to try things with: ten of those that astropy ships for its own tests, one of them damaged on purpose."""

import os
import shutil
import warnings
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import astropy
from astropy.io import fits


def some_images(folder: str) -> list[Path]:
    """The paths of the images in *folder*, which is made if it is not there."""
    target = Path(folder)
    if not target.exists():
        fresh = target.with_name(f"{target.name}.part")  # whoever is interrupted here finds no half-filled folder
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        copies = [shutil.copyfile(image, fresh / image.name) for image in islice(shipped_images(), 10)]
        os.truncate(copies[5], 1000)  # not even its header is whole
        fresh.rename(target)
    return sorted(target.glob("*.fits"))


def shipped_images() -> Iterator[Path]:
    """The images that this version of astropy ships, wherever it keeps them, but for the tiny ones."""
    for path in sorted(Path(astropy.__file__).parent.rglob("*.fits")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some of these files are there because they are strange
            try:
                data = fits.getdata(path)
            except (OSError, IndexError, ValueError):
                continue
        if data.dtype.names is None and data.ndim > 1 and data.size > 700:
            yield path
