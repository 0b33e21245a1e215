"""A place for files in memory, for tests of what goes to the storage and comes from it."""

import hashlib
import threading

from canfar_batch.storage import RemoteFile
from canfar_batch.storage.space import Content


def md5(data):
    return hashlib.md5(data).hexdigest()


class MemorySpace:
    """A space whose faults are functions: `on_write(path, data) -> data` and `on_read(path, data) -> pieces`."""

    where = "memory"

    def __init__(self, *, ranges=False, knows_md5=True):
        self.files, self.folders, self.clock = {}, {"", "/home", "/home/you"}, 0
        self.ranges, self.knows_md5 = ranges, knows_md5
        self.on_write = lambda path, data: data
        self.on_read = lambda path, data: iter([data])
        self.log, self.stale, self.lock = [], {}, threading.Lock()

    def put(self, path, data):
        with self.lock:
            self.clock += 1
            self.files[path] = (data, f"2026-11-27T00:00:{self.clock % 60:02}.000")

    def trouble_with(self, name):
        return "no blanks" if " " in name else None

    def find(self, path):
        if path in self.folders:
            return RemoteFile(path=path, is_folder=True)
        if path not in self.files:
            return None
        data, when = self.files[path]
        known = self.stale.get(path, md5(data)) if self.knows_md5 else None
        return RemoteFile(path=path, size=len(data), md5=known, modified=when)

    def children(self, path):
        inside = [each for each in (*self.folders, *self.files) if each.rpartition("/")[0] == path and each != path]
        return [self.find(each) for each in inside]

    def make_folder(self, path):
        self.folders.add(path)

    def read(self, path, start=0):
        self.log.append(("read", path, start))
        start = start if self.ranges else 0
        return Content(pieces=self.on_read(path, self.files[path][0][start:]), start=start)

    def write(self, path, source, size, md5):
        self.log.append(("write", path))
        self.put(path, self.on_write(path, source.read(size)))

    def digest(self, path):
        return None

    def move(self, old, new):
        self.log.append(("move", old, new))
        assert new not in self.files
        self.files[new] = self.files.pop(old)

    def delete(self, path):
        self.files.pop(path, None)
