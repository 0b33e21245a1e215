"""The nodes of a VOSpace: files, folders and links below a directory, and their properties."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import threading
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath

import attrs

CORE = "ivo://ivoa.net/vospace/core#"
INHERIT = "ivo://cadc.nrc.ca/vospace/core#inheritPermissions"
LENGTH, DATE, CREATOR, PUBLIC, MD5, TYPE, QUOTA = (
    CORE + name for name in ("length", "date", "creator", "ispublic", "MD5", "type", "quota")
)
READ_ONLY = frozenset({LENGTH, DATE, CREATOR, MD5, QUOTA})
GROUPS = frozenset({CORE + "groupread", CORE + "groupwrite"})
_ATTRIBUTE = "user.canfar-batch"
_CHILDREN = "vos:ContainerNode"


@attrs.frozen
class Node:
    """A node as it is on the disk now."""

    path: str  #: from the root: `/home/user/a.fits`; the root is empty
    place: Path
    kind: str  #: its `xsi:type`
    properties: dict[str, str]
    target: str | None = None  #: of a link: the path that it leads to

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.path.rpartition("/")[2]

    @property
    def is_container(self) -> bool:
        """Whether it may have children."""
        return self.kind == _CHILDREN

    @property
    def is_public(self) -> bool:
        """Whether anyone may read it."""
        return self.properties[PUBLIC] == "true"


class Tree:
    """The files below a directory. Properties are kept as extended attributes where the disk has them.

    Args:
        root: The directory.
        user: The owner of what no one else has made.
        quota: Bytes that each home directory may hold; None for no limit.
    """

    def __init__(self, root: Path, user: str, quota: int | None = None) -> None:
        self.root, self._user, self.quota = root, user, quota
        self._lock = threading.RLock()
        self._kept: dict[str, dict[str, str]] = {}  #: properties on disks without extended attributes
        for name in ("home", "projects"):
            (root / name).mkdir(parents=True, exist_ok=True)

    def place(self, path: str) -> Path:
        """Return where the node of *path* is, or would be, on the disk."""
        return self.root / path.lstrip("/")

    def find(self, path: str) -> Node | None:
        """Return the node of *path*; None if there is none. Links above it are followed."""
        place = self.place(path)
        try:
            parent = place.parent.resolve()
            if place != self.root and not (parent == self.root or parent.is_relative_to(self.root.resolve())):
                return None
        except OSError:
            return None
        return self._node(path, place)

    def _node(self, path: str, place: Path) -> Node | None:
        try:
            status = place.lstat()
        except OSError:
            return None
        kept = self._read(place)
        owner = kept.get(CREATOR) or self._owner(path)
        depth = path.count("/")
        # what a job made on the disk is public if everyone may read the file; homes are not
        is_public = depth <= 1 or (depth > 2 and bool(status.st_mode & 0o004) and CREATOR not in kept)
        properties = {CREATOR: owner, PUBLIC: "true" if is_public else "false", **kept}
        properties[DATE] = _date(status.st_mtime)
        if stat.S_ISLNK(status.st_mode):
            return Node(path, place, "vos:LinkNode", properties | {PUBLIC: "true"}, self._target(path, place))
        if stat.S_ISDIR(status.st_mode):
            properties.setdefault(INHERIT, "false")
            properties[LENGTH] = str(self.size(place))
            if self.quota is not None and path.count("/") == 2 and path.startswith("/home/"):
                properties[QUOTA] = str(self.quota)
            return Node(path, place, _CHILDREN, properties)
        properties[LENGTH] = str(status.st_size)
        return Node(path, place, "vos:DataNode", properties)

    def children(self, node: Node) -> Iterator[Node]:
        """Iterate over the children of a container, in the order of the directory."""
        with os.scandir(node.place) as entries:
            names = [entry.name for entry in entries]
        for name in names:
            child = self._node(f"{node.path}/{name}", node.place / name)
            if child is not None:
                yield child

    def follow(self, node: Node) -> Node | None:
        """Return the node that a link leads to in the end, or *node* itself; None if that is nowhere."""
        for _ in range(20):
            if node.target is None:
                return node
            found = self.find(node.target)
            if found is None:
                return None
            node = found
        return None

    def write(self, path: str, changes: dict[str, str | None]) -> None:
        """Change properties; None deletes one."""
        place = self.place(path)
        with self._lock:
            kept = self._read(place)
            for uri, value in changes.items():
                if value is None:
                    kept.pop(uri, None)
                else:
                    kept[uri] = value
            data = json.dumps(kept).encode()
            try:
                os.setxattr(place, _ATTRIBUTE, data, follow_symlinks=False)
            except (OSError, AttributeError):
                self._kept[str(place)] = kept

    def moved(self, old: Path, new: Path) -> None:
        """Note that files moved, on a disk without extended attributes."""
        with self._lock:
            for name in [key for key in self._kept if key == str(old) or key.startswith(f"{old}/")]:
                self._kept[str(new) + name[len(str(old)) :]] = self._kept.pop(name)

    def forget(self, place: Path) -> None:
        """Forget the properties of a file that was removed."""
        with self._lock:
            self._kept.pop(str(place), None)

    def used(self, path: str) -> int:
        """Return the bytes in the home directory that *path* is in."""
        parts = path.split("/")
        return self.size(self.root.joinpath(*parts[1:3]))

    @staticmethod
    def size(folder: Path) -> int:
        """Return the bytes of all files below a directory."""
        total = 0
        for where, _, names in os.walk(folder):
            for name in names:
                with contextlib.suppress(OSError):
                    total += os.lstat(os.path.join(where, name)).st_size  # noqa: PTH118 - faster for many files
        return total

    def _read(self, place: Path) -> dict[str, str]:
        with self._lock:
            kept = self._kept.get(str(place))
            if kept is not None:
                return dict(kept)
        try:
            return dict(json.loads(os.getxattr(place, _ATTRIBUTE, follow_symlinks=False)))
        except (OSError, AttributeError, ValueError):
            return {}

    def _owner(self, path: str) -> str:
        parts = path.split("/")
        return parts[2] if len(parts) > 2 and parts[1] == "home" else "admin" if len(parts) <= 2 else self._user

    def _target(self, path: str, place: Path) -> str:
        target = PurePosixPath(place.readlink())
        if target.is_absolute():
            with contextlib.suppress(ValueError):
                return f"/{target.relative_to(self.root)}"
            return str(target)
        return os.path.normpath(f"{path.rpartition('/')[0]}/{target}")


def _date(seconds: float) -> str:
    when = datetime.fromtimestamp(seconds, timezone.utc)
    return when.strftime("%Y-%m-%dT%H:%M:%S.") + f"{when.microsecond // 1000:03d}"
