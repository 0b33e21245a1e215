"""Job scripts to start from: each does something useful unchanged, and shows where your own code goes.

```python
from canfar_batch import templates

print(templates.names())  # ['basic-processing', 'fits-stack', 'ml-training', 'robust-job']
script = templates.write("fits-stack", "stack.py", overwrite=True)
```

They do not need `canfar_batch` in the image; their first lines list what they need. They check their arguments, write
their results whole or not at all, name the job in their log, and end with an exit code other than 0 if they fail.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

__all__ = ["names", "read", "write"]

_HERE = Path(__file__).parent
_FILES = {file.stem: file for file in sorted(_HERE.glob("*-*.*")) if file.suffix in (".py", ".sh")}


def names() -> list[str]:
    """Return the names of the templates, sorted.

    ```python
    from canfar_batch import templates

    for name in templates.names():
        print(name)
    ```
    """
    return list(_FILES)


def read(name: str) -> str:
    """Return the text of a template.

    Raises:
        LookupError: There is no template of this name; the message lists their names.

    ```python
    from canfar_batch import templates

    print(templates.read("basic-processing"))
    ```
    """
    return _file(name).read_text(encoding="utf-8")


def write(name: str, path: str | os.PathLike[str], overwrite: bool = False) -> Path:
    """Write a template to a file, executable (mode 0755), whole or not at all.

    Args:
        name: The template's name.
        path: The file to write; in a directory, the template gets its own name, such as `ml-training.py`.
        overwrite: Whether to replace an existing file, which may hold your changes.

    Returns:
        The file that was written.

    Raises:
        LookupError: There is no template of this name.
        FileExistsError: The file exists, and *overwrite* is false.
        OSError: The file cannot be written.

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
        raise FileExistsError(f"{target} exists; choose another path, or replace it with overwrite=True")
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
