"""Helpers for code that runs in the container: its job, its share of the work, its resources, and safe writing.

```python
from canfar_batch import inside

inside.configure_logging("logs")
for number in inside.chunk(range(1000)):
    ...
```

This module needs only the standard library, most of which it imports when it is first used. If the image has no
`canfar_batch`, put a copy of this file beside your script and `import inside`; Python 3.8 is enough.
Outside a container everything works as for a single job, so you can try a script on a laptop first.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING, Any, Dict, NamedTuple, TypeVar  # noqa: UP035 - a base class in Python 3.8

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "Description",
    "Replica",
    "Scratch",
    "atomic_write",
    "attempt",
    "batch",
    "chunk",
    "configure_logging",
    "describe",
    "job_id",
    "key",
    "replica",
    "scratch",
    "stripe",
]

T = TypeVar("T")

SCRATCH = "/scratch"  #: the disk that the platform gives to each container, emptied at its end
GIB = 1024**3


# -- who am I -------------------------------------------------------------------------------------------------------


def job_id() -> str | None:
    """Return the platform's id for the container, which the portal and `Job.id` show; None outside a container.

    It is `skaha_sessionid`, which the platform sets, or else `SKAHA_SESSION_ID`, the name in the platform's guide.

    ```python
    from canfar_batch import inside

    print(f"this is job {inside.job_id() or 'unknown'}")
    ```
    """
    return os.environ.get("skaha_sessionid") or os.environ.get("SKAHA_SESSION_ID") or None  # noqa: SIM112


def key() -> str | None:
    """Return the job's key in its batch, the same for every attempt; None if `canfar_batch` did not launch it.

    ```python
    from canfar_batch import inside

    checkpoint = f"checkpoints/{inside.key() or 'by-hand'}.npz"  # a later attempt finds it again
    ```
    """
    return os.environ.get("CANFAR_BATCH_KEY") or None


def attempt() -> int:
    """Return the number of the job's attempt, from 1; 1 for a script that is run by hand.

    Raises:
        ValueError: `CANFAR_BATCH_ATTEMPT` is set and is not a whole number of at least 1.

    ```python
    from canfar_batch import inside

    if inside.attempt() > 1:
        print("an earlier attempt failed: looking for its checkpoint")
    ```
    """
    return _count_from_environment("CANFAR_BATCH_ATTEMPT") or 1


def batch() -> str | None:
    """Return the name of the job's batch; None for a single job, and outside a container.

    ```python
    from canfar_batch import inside

    results = f"results/{inside.batch() or 'by-hand'}"
    ```
    """
    return os.environ.get("CANFAR_BATCH_NAME") or None


# -- my share of the work ---------------------------------------------------------------------------------------------


class Replica(NamedTuple):
    """One of several jobs that share the same work: number *index*, from 1, of *count*.

    ```python
    from canfar_batch import inside

    assert inside.Replica(index=2, count=3) == (2, 3)
    ```
    """

    index: int  # type: ignore[assignment] # hides tuple.index, which is of no use here
    count: int  # type: ignore[assignment]


def replica() -> Replica:
    """Return which replica this is, from `REPLICA_ID` and `REPLICA_COUNT`, which `Batch.replicas` sets; else (1, 1).

    Raises:
        ValueError: Only one of the two is set, or they are not numbers with 1 <= index <= count. This is an error so
            that a mistake does not compute anything twice, or leave it out.

    ```python
    from canfar_batch import inside

    index, count = inside.replica()
    print(f"this is replica {index} of {count}")
    ```
    """
    index, count = _count_from_environment("REPLICA_ID"), _count_from_environment("REPLICA_COUNT")
    if index is None and count is None:
        return Replica(1, 1)
    if index is None or count is None:
        there, missing = ("REPLICA_ID", "REPLICA_COUNT") if count is None else ("REPLICA_COUNT", "REPLICA_ID")
        raise ValueError(f"{there} is set and {missing} is not; set both, or neither for one job alone")
    return _checked(Replica(index, count))


def stripe(items: Iterable[T], index: int | None = None, count: int | None = None) -> list[T]:
    """Return this replica's share of *items*, dealt like cards: every *count*-th, beginning with number *index*.

    Prefer it to `chunk` if neighbours cost about the same, as when files are sorted by size: each replica gets some of
    every size.

    Args:
        items: The same in every replica, in the same order: sort results of `glob` or `os.listdir`.
        index: The number of the replica, from 1; by default of this one.
        count: The number of replicas; by default that of `replica`.

    Raises:
        TypeError: *items* is a set, whose order differs from one process to the next.
        ValueError: Not 1 <= *index* <= *count*.

    ```python
    from canfar_batch import inside

    assert inside.stripe("abcdefgh", 2, 3) == ["b", "e", "h"]
    ```
    """
    mine = _share(index, count)
    return list(_in_order(items)[mine.index - 1 :: mine.count])


def chunk(items: Iterable[T], index: int | None = None, count: int | None = None) -> list[T]:
    """Return this replica's share of *items*: neighbours stay together, and shares differ in length by one at most.

    Prefer it to `stripe` if neighbours share something, such as a calibration or a file that is read once.

    Args:
        items: The same in every replica, in the same order: sort results of `glob` or `os.listdir`.
        index: The number of the replica, from 1; by default of this one.
        count: The number of replicas; by default that of `replica`.

    Raises:
        TypeError: *items* is a set, whose order differs from one process to the next.
        ValueError: Not 1 <= *index* <= *count*.

    ```python
    from canfar_batch import inside

    assert [inside.chunk("abcdefgh", index, 3) for index in (1, 2, 3)] == [list("abc"), list("def"), list("gh")]
    ```
    """
    mine = _share(index, count)
    whole = _in_order(items)
    least, longer = divmod(len(whole), mine.count)
    begin = (mine.index - 1) * least + min(mine.index - 1, longer)
    return list(whole[begin : begin + least + (mine.index <= longer)])


def _share(index: int | None, count: int | None) -> Replica:
    if index is not None and count is not None:
        return _checked(Replica(index, count))
    mine = replica()
    return _checked(Replica(mine.index if index is None else index, mine.count if count is None else count))


def _checked(one: Replica) -> Replica:
    if one.count < 1 or not 1 <= one.index <= one.count:
        raise ValueError(f"there is no replica {one.index} of {one.count}: replicas are counted from 1 to their number")
    return one


def _in_order(items: Iterable[T]) -> Sequence[T]:
    if isinstance(items, (set, frozenset)):
        raise TypeError("a set has a different order in every process, so replicas would not agree; pass sorted(items)")
    return items if isinstance(items, Sequence) else list(items)


def _count_from_environment(name: str) -> int | None:
    text = os.environ.get(name)
    if not text:
        return None
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise ValueError(f"{name}={text!r} is not a whole number of at least 1")
    return number


# -- logging ----------------------------------------------------------------------------------------------------------


def configure_logging(directory: str | os.PathLike[str], level: int | str = "INFO") -> Path:
    """Log to the console, which `Job.logs` shows, and to a file that remains after the job.

    Args:
        directory: The directory of the file; it is created if necessary. Every attempt writes a new file,
            `job_<id>_<time>.log`, so that none overwrites another. All times are UTC.
        level: The lowest level that is logged, as in `logging`.

    Returns:
        The file.

    Raises:
        OSError: The directory cannot be created, or written to.

    A second call closes the file and begins another; handlers that other code added are not changed.

    ```python
    import logging
    from canfar_batch import inside

    file = inside.configure_logging("logs")
    logging.info("the log is in %s", file)
    ```
    """
    import logging
    import time
    from pathlib import Path

    place = Path(directory)
    place.mkdir(parents=True, exist_ok=True)
    file = _new_log(place, time.strftime("%Y%m%d_%H%M%S", time.gmtime()))
    layout = logging.Formatter("%(asctime)s - %(levelname)s - %(message)s", "%Y-%m-%d %H:%M:%S")
    layout.converter = time.gmtime

    root = logging.getLogger()
    for old in [handler for handler in root.handlers if handler.name in _HANDLERS]:
        root.removeHandler(old)
        old.close()
    handlers: list[logging.Handler] = [logging.FileHandler(file, encoding="utf-8"), logging.StreamHandler()]
    for name, handler in zip(_HANDLERS, handlers):  # noqa: B905 - Python 3.8 has no strict=
        handler.name = name
        handler.setFormatter(layout)
        root.addHandler(handler)
    root.setLevel(level)
    return file


_HANDLERS = ("canfar_batch.inside.file", "canfar_batch.inside.console")


def _new_log(place: Path, time: str) -> Path:
    """Create a new file: a container that is restarted has the same id, perhaps within the same second."""
    import itertools

    id = "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in job_id() or "unknown")
    for number in itertools.count(1):
        file = place / f"job_{id}_{time}{'' if number == 1 else f'-{number}'}.log"
        try:
            file.touch(exist_ok=False)
        except FileExistsError:
            continue
        return file
    raise AssertionError("numbers do not end")


# -- what may I use ---------------------------------------------------------------------------------------------------


class Description(Dict[str, Any]):  # noqa: UP006
    """The result of `describe`: a dict of JSON's types; its text has a line for each fact.

    ```python
    import json
    from canfar_batch import inside

    found = inside.describe()
    print(found)
    print(json.dumps(found["memory_gib"]))
    ```
    """

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def _lines(facts: dict[str, Any], indent: str = "") -> Iterator[str]:
    for name, value in facts.items():
        if isinstance(value, dict):
            yield f"{indent}{name}:"
            yield from _lines(value, indent + "  ")
        else:
            yield f"{indent}{name}: {'unknown' if value is None else value}"


def describe() -> Description:
    """Describe where this runs and with which resources; print it at the start of a log.

    CPUs and memory are those that the container may use, from its cgroup; the usual calls report those of the whole
    machine. Units are cores and GiB; an unknown value is None. Free disk space is the machine's: the platform evicts a
    container that fills more than its share of `/scratch`, and that share cannot be seen from inside.
    Only environment variables known to be harmless are included, and those that may hold secrets are masked.

    ```python
    from canfar_batch import inside

    print(inside.describe())
    workers = max(1, int(inside.describe()["cpus"]["allowed"]))
    ```
    """
    import platform

    number = os.environ.get("CANFAR_BATCH_ATTEMPT")
    index, count = os.environ.get("REPLICA_ID"), os.environ.get("REPLICA_COUNT")
    return Description(
        job=job_id(),
        key=key(),
        attempt=int(number) if number and number.isdecimal() else number,
        batch=batch(),
        replica=f"{index} of {count}" if index or count else None,
        host=platform.node(),
        system=platform.platform(),
        python=platform.python_version(),
        workdir=os.getcwd(),
        cpus=_cpus(),
        memory_gib=_memory(),
        disk_free_gib=_disks(),
        environment=_environment(),
    )


def _cpus() -> dict[str, Any]:
    machine = os.cpu_count()
    # some systems can restrict a process to some of the CPUs
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else machine
    allowed = [quota for quota in map(_quota, _cgroups("cpu")) if quota is not None]
    return {"allowed": _least([*allowed, usable]), "machine": machine}


def _memory() -> dict[str, Any]:
    machine = _machine_memory()
    groups = [_memory_of(directory) for directory in _cgroups("memory")]
    limits = [limit for limit, _ in groups if limit is not None]
    left = [limit - used for limit, used in groups if limit is not None and used is not None]
    in_gib = {
        "allowed": _least([*limits, machine]),
        "available": _least([*left, _entry("/proc/meminfo", "MemAvailable:", 1024)]),
        "machine": machine,
    }
    return {name: None if value is None else round(value / GIB, 2) for name, value in in_gib.items()}


def _least(values: list[Any]) -> Any:
    return min((value for value in values if value is not None), default=None)


def _machine_memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def _cgroups(controller: str) -> list[str]:
    """Return the cgroup directories of *controller*, from this process's own upwards; each may hold a limit."""
    top = os.environ.get("CANFAR_BATCH_CGROUP")
    if top:
        return [_version_1(top, controller) or top]
    top, own = "/sys/fs/cgroup", ""
    for line in _read("/proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            top, own = _version_1(top, controller) or top, path
            break
        if not controllers:
            own = path
    # a container sees its own group as the root, but the path may be that on the machine
    parts = [part for part in own.split("/") if part]
    chain = ["/".join([top, *parts[:depth]]) for depth in range(len(parts), -1, -1)]
    return [directory for directory in chain if os.path.isdir(directory)]


def _version_1(top: str, controller: str) -> str | None:
    """Return the directory of *controller* in version 1; None in version 2, which has one tree for all."""
    names = (controller, "cpu,cpuacct") if controller == "cpu" else (controller,)
    return next((place for place in (f"{top}/{name}" for name in names) if os.path.isdir(place)), None)


def _quota(directory: str) -> float | None:
    """Return the limit in cores, or None."""
    words = _read(f"{directory}/cpu.max").split() or [
        *_read(f"{directory}/cpu.cfs_quota_us").split(),
        *_read(f"{directory}/cpu.cfs_period_us").split(),
    ]
    if len(words) != 2 or not all(word.isdigit() for word in words):  # `max` and -1 mean no limit
        return None
    quota, period = map(int, words)
    return round(quota / period, 2) if quota and period else None


def _memory_of(directory: str) -> tuple[int | None, int | None]:
    """Return the limit and the memory in use, in bytes; file cache that can be dropped at any time counts as free."""
    for limit, used, cache in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        most, now = _read(f"{directory}/{limit}").strip(), _read(f"{directory}/{used}").strip()
        if most.isdigit():
            dropped = _entry(f"{directory}/memory.stat", cache) or 0
            return int(most), max(0, int(now) - dropped) if now.isdigit() else None
    return None, None


def _entry(file: str, name: str, unit: int = 1) -> int | None:
    """Return the number after *name* in a file of lines ``NAME NUMBER``, times *unit*; None if there is none."""
    for line in _read(file).splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == name and words[1].isdigit():
            return int(words[1]) * unit
    return None


def _read(file: str) -> str:
    try:
        with open(file, encoding="utf-8", errors="replace") as opened:
            return opened.read()
    except OSError:
        return ""


def _disks() -> dict[str, float]:
    places = [os.getcwd(), os.environ.get("HOME"), _own_disk() or os.environ.get("TMPDIR") or "/tmp"]  # noqa: S108
    return {place: round(_free(place), 2) for place in places if place and os.path.isdir(place)}


def _free(place: str) -> float:
    disk = os.statvfs(place)
    return disk.f_bavail * disk.f_frsize / GIB


_HARMLESS = (
    "CONDA_DEFAULT_ENV", "CONDA_PREFIX", "CUDA_VISIBLE_DEVICES", "HOME", "HOSTNAME", "LANG", "LC_ALL",
    "LD_LIBRARY_PATH", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PATH",
    "PYTHONPATH", "REPLICA_COUNT", "REPLICA_ID", "TMPDIR", "TZ", "USER", "VIRTUAL_ENV",
)  # fmt: skip
_SECRET = ("AUTH", "CERT", "COOKIE", "CREDENTIAL", "KEY", "PASS", "PRIVATE", "SECRET", "TOKEN")


def _environment() -> dict[str, str]:
    shown = {}
    for name, value in sorted(os.environ.items()):
        if name in _HARMLESS or name.upper().startswith(("SKAHA", "CANFAR_BATCH_")):
            secret = name != "CANFAR_BATCH_KEY" and any(word in name.upper() for word in _SECRET)
            shown[name] = "[secret]" if secret else value
    return shown


# -- writing safely ---------------------------------------------------------------------------------------------------


@contextmanager
def atomic_write(
    path: str | os.PathLike[str],
    mode: str = "w",
    *,
    encoding: str | None = None,
    newline: str | None = None,
) -> Iterator[IO[Any]]:
    """Open a file for writing; *path* is replaced when the block ends without an error, and then all at once.

    A job that is killed leaves the old file, or none, but never half a file that looks like a result, and two runs of a
    job do not disturb each other. The contents are on the disk before the name is. An existing file keeps its
    permissions, and a symbolic link stays one; a new file gets the permissions that `open` would give it.

    Args:
        path: The file. It is first written under a hidden name that ends in `.part`, in the same directory. That file
            is removed if the block raises; a process that is killed leaves it.
        mode: `"w"` for text, `"wb"` for bytes, `"w+b"` for writers that also read.
        encoding: The encoding of text; by default UTF-8, whatever the image's locale.
        newline: As in `open`.

    Raises:
        ValueError: *mode* is not one that writes a whole file.
        OSError: The file cannot be written, or *path* is not an ordinary file.

    ```python
    import json
    from canfar_batch import inside

    with inside.atomic_write("result.json") as file:
        json.dump({"seeing": 0.7}, file)
    ```
    """
    if not mode.startswith("w"):
        raise ValueError(f"mode={mode!r}: a file is written as a whole, so the mode is 'w', 'wb' or 'w+b'")
    target = os.path.realpath(path)
    directory, name = os.path.split(target)
    before = _status_of_file(target)
    if not os.path.isdir(directory):
        raise FileNotFoundError(_errno("ENOENT"), "There is no such directory to write into", directory)
    part = os.path.join(directory, f".{name[:40]}.{os.urandom(6).hex()}.part")
    encoding = encoding if "b" in mode else encoding or "utf-8"
    try:
        with open(part, mode, encoding=encoding, newline=newline, opener=_new_file) as file:
            if before is not None:
                os.chmod(part, before.st_mode & 0o7777)
            yield file
        _to_disk(part)
        os.replace(part, target)
    except BaseException:
        if os.path.lexists(part):
            os.unlink(part)
        raise
    with suppress(OSError):  # some network disks cannot sync directories; the file itself is complete
        _to_disk(directory)


def _new_file(path: str, flags: int) -> int:
    # mode "x" would do, but some writers look at a file's mode and accept only "w"
    return os.open(path, flags | os.O_EXCL, 0o666)


def _status_of_file(path: str) -> os.stat_result | None:
    if not os.path.exists(path):
        return None
    if not os.path.isfile(path):
        raise OSError(_errno("EINVAL"), "This is not an ordinary file, so it cannot be replaced by one", path)
    return os.stat(path)


def _errno(name: str) -> int:
    import errno

    return int(getattr(errno, name))


def _to_disk(path: str) -> None:
    # with a descriptor of its own, because writers of some formats close the file that they are given
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class Scratch:
    """A directory for temporary files, which `scratch` makes and removes; it can be used like a path.

    ```python
    import os
    from canfar_batch import inside

    with inside.scratch() as work:
        print(work.path, work / "tile.fits", os.listdir(work))
    ```
    """

    def __init__(self, path: Path) -> None:
        self.path = path  #: the directory

    @property
    def free(self) -> float:
        """The free space on its disk at this moment, in GiB."""
        return _free(str(self.path))

    def __truediv__(self, name: str | os.PathLike[str]) -> Path:
        return self.path / name

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return f"<Scratch {self.path}, {self.free:.1f} GiB free>"


@contextmanager
def scratch(at_least: float = 0.0) -> Iterator[Scratch]:
    """Make a new private directory for temporary files; it is removed with its contents when the block ends.

    It is below `/scratch`, the container's own fast disk, if there is one; else below `TMPDIR` or `/tmp`.
    Copy the results to `/arc` before the block ends.

    Args:
        at_least: GiB that must be free, so that a job fails at once and not after hours.

    Raises:
        OSError: Less space is free (`ENOSPC`), or no directory can be written.

    ```python
    from canfar_batch import inside

    with inside.scratch(at_least=0.001) as work:
        (work / "tiles.txt").write_text("1 2 3")
        print(f"{work.free:.1f} GiB left in {work}")
    ```
    """
    import shutil
    import tempfile
    from pathlib import Path

    root = _own_disk() or tempfile.gettempdir()
    room = _free(root)
    if room < at_least:
        raise OSError(_errno("ENOSPC"), f"{room:.1f} GiB are free and {at_least:g} are needed; delete files", root)
    made = Path(tempfile.mkdtemp(prefix="job-", dir=root))
    try:
        yield Scratch(made)
    finally:
        # files that cannot be removed vanish with the container; they are no reason for the job to fail
        shutil.rmtree(made, ignore_errors=True)


def _own_disk() -> str | None:
    return SCRATCH if os.path.isdir(SCRATCH) and os.access(SCRATCH, os.W_OK | os.X_OK) else None
