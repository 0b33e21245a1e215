"""Example input: ten images that astropy ships for its own tests, one of them damaged on purpose."""

import os
import shutil
import warnings
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import astropy
from astropy.io import fits


def some_images(folder: str) -> list[Path]:
    """Return the paths of the images in *folder*, which is created if it does not exist."""
    target = Path(folder)
    if not target.exists():
        fresh = target.with_name(f"{target.name}.part")  # so that an interruption leaves no half-filled folder
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        copies = [shutil.copyfile(image, fresh / image.name) for image in islice(shipped_images(), 10)]
        os.truncate(copies[5], 1000)  # even its header is cut
        fresh.rename(target)
    return sorted(target.glob("*.fits"))


def shipped_images() -> Iterator[Path]:
    """Yield the images that the installed astropy ships, except tiny ones."""
    for path in sorted(Path(astropy.__file__).parent.rglob("*.fits")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some of these files are malformed on purpose
            try:
                data = fits.getdata(path)
            except (OSError, IndexError, ValueError):
                continue
        if data.dtype.names is None and data.ndim > 1 and data.size > 700:
            yield path
