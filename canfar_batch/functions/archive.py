"""The archive in which a function travels: a zip file that Python runs, with all that the function needs."""

from __future__ import annotations

import inspect
import io
import json
import linecache
import sys
import zipfile
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

from canfar_batch.errors import SpecError
from canfar_batch.functions.digest import Identity
from canfar_batch.functions.modules import sources

_MAIN = """\
import sys
if sys.version_info[:2] != {version!r}:
    sys.exit("canfar_batch: the function was sent by Python {text}, whose code Python %d.%d of this image cannot run: "
             "drive the batch with that version, or choose an image with Python {text}" % sys.version_info[:2])
import canfar_batch_runner
sys.exit(canfar_batch_runner.main(sys.argv[0], sys.argv[1], sys.argv[2:]))
"""


def archive(function: Any, identity: Identity) -> bytes:
    """Return the archive of *function*.

    Raises:
        SpecError: The function cannot be pickled.
    """
    import cloudpickle

    try:
        pickled = cloudpickle.dumps(function)
    except Exception as error:
        raise SpecError(
            f"the function {label(function)} cannot be sent: {error}. It may refer to what lives in this process "
            "alone, such as an open file, a lock or a session: make that inside the function"
        ) from error
    version = sys.version_info[:2]
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as made:
        members = {
            "__main__.py": _MAIN.format(version=version, text="{}.{}".format(*version)).encode(),
            "canfar_batch_runner.py": files("canfar_batch.payload").joinpath("runner.py").read_bytes(),
            "function.pkl": pickled,
            "sources.json": json.dumps(_sources_shown(identity)).encode(),
            **dict(_package(Path(cloudpickle.__file__).parent)),
            **{path: text for name in identity.modules for path, text in sources(name)},
        }
        for name, text in members.items():
            made.writestr(zipfile.ZipInfo(name), text, zipfile.ZIP_DEFLATED)
    return content.getvalue()


def label(function: Any) -> str:
    """Return the name of a function, a method, a partial or another callable, for names of batches and jobs."""
    function = getattr(function, "func", function)
    name = getattr(function, "__name__", type(function).__name__)
    return "function" if name == "<lambda>" else name


def _package(folder: Path) -> Iterator[tuple[str, bytes]]:
    for file in sorted(folder.glob("*.py")):
        yield f"{folder.name}/{file.name}", file.read_bytes()


def _sources_shown(identity: Identity) -> dict[str, Any]:
    """Return the code that is sent, and its source, so that a traceback shows files and lines as here."""
    texts = {file: "".join(linecache.getlines(file)) for _, _, file in identity.codes}
    return {"codes": identity.codes, "texts": {file: text for file, text in texts.items() if text}}


def parameters(function: Any) -> inspect.Signature:
    """Return the signature of *function*.

    Raises:
        SpecError: It has none.
    """
    try:
        return inspect.signature(function)
    except (TypeError, ValueError) as error:
        raise SpecError(
            f"the parameters of {label(function)} cannot be found out ({error}): wrap it, as lambda x: f(x)"
        ) from error
