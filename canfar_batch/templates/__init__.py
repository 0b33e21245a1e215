"""Job scripts to start from: each does something useful as it stands, and shows where your own code goes.

```python
from canfar_batch import templates

print(templates.names())  # ['basic-processing', 'fits-stack', 'ml-training', 'robust-job']
script = templates.write("fits-stack", "stack.py", overwrite=True)
```

They stand alone: the image needs what their first lines say, and no `canfar_batch`. They check their arguments, write
their results whole or not at all, name the job in what they log, and end with another code than 0 when they fail.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

__all__ = ["names", "read", "write"]

_HERE = Path(__file__).parent
_FILES = {file.stem: file for file in sorted(_HERE.glob("*-*.*")) if file.suffix in (".py", ".sh")}


def names() -> list[str]:
    """The templates there are, in order.

    ```python
    from canfar_batch import templates

    for name in templates.names():
        print(name)
    ```
    """
    return list(_FILES)


def read(name: str) -> str:
    """The text of a template.

    Raises:
        LookupError: There is none of this name; the message names those that there are.

    ```python
    from canfar_batch import templates

    print(templates.read("basic-processing"))
    ```
    """
    return _file(name).read_text(encoding="utf-8")


def write(name: str, path: str | os.PathLike[str], overwrite: bool = False) -> Path:
    """Write a template out, executable (mode 0755), whole or not at all.

    Args:
        name: Which one.
        path: The file to write; a directory gets the template under its own name, as `ml-training.py`.
        overwrite: Whether a file that is there may be replaced: it could hold your changes.

    Returns:
        The file that was written.

    Raises:
        LookupError: There is no template of this name.
        FileExistsError: The file is there, and *overwrite* is false.
        OSError: It cannot be written.

    ```python
    from canfar_batch import templates

    script = templates.write("ml-training", "train.py", overwrite=True)
    ```
    """
    source = _file(name)
    target = Path(path)
    if target.is_dir():
        target /= source.name
    if not overwrite and os.path.lexists(target):
        raise FileExistsError(f"{target} is there already; choose another path, or replace it with overwrite=True")
    part = target.with_name(f".{target.name[:40]}.{secrets.token_hex(6)}.part")
    try:
        part.write_bytes(source.read_bytes())
        part.chmod(0o755)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return target


def _file(name: str) -> Path:
    if name not in _FILES:
        raise LookupError(f"there is no template {name!r}; there are {', '.join(_FILES)}")
    return _FILES[name]
