"""The official client's saved login, `~/.canfar/config.yaml`: its servers, certificates and OIDC tokens.

The file belongs to another program, and is only read, with one exception: if a refresh token is exchanged for the next,
the old one is dead, and leaving it in the file would log the other program out. Then the new one is written back
(`oidc.py`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from canfar_batch.errors import AddressError, CredentialError, CredentialMissing
from canfar_batch.rest.addresses import DEFAULT_URL, Origin, origin, platform_url

try:
    import fcntl
except ImportError:  # Windows: two programs that refresh at the same moment may then log one another out
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger("canfar_batch.rest")

_MOST_BRACKETS = 1000  #: in a login, of which the official client writes a few

Tree = Mapping[str, Any]
Keys = tuple[str, ...]


@attrs.frozen(kw_only=True)
class Entry:
    """One login in the file."""

    name: str  #: its name for `canfar login`
    mode: str  #: `x509` or `oidc`
    keys: Keys  #: its place in the file
    path: str | None = None  #: of its certificate, for x509
    origins: frozenset[Origin] = frozenset()  #: the servers that it is for, and may be shown to


@attrs.frozen(kw_only=True)
class SavedLogin:
    """The part of the file that is of use to us."""

    file: Path
    url: str | None  #: the active server
    entries: tuple[Entry, ...] = ()  #: the active one first
    registry: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    trouble: str | None = None  #: why the file could not be read; then all else is empty

    @property
    def origins(self) -> frozenset[Origin]:
        """All servers for which the file has a login."""
        return frozenset().union(*(entry.origins for entry in self.entries))


def read_login(home: Path, env: Mapping[str, str]) -> SavedLogin | None:
    """Return the saved login, or None if there is no file. As for the client, `CANFAR_ACTIVE__…` select its entries."""
    file = home / ".canfar" / "config.yaml"
    try:
        tree = load_config(file)
    except FileNotFoundError:
        return None
    except OSError as error:  # among them CredentialError
        log.warning("%s", error)
        return SavedLogin(file=file, url=None, trouble=str(error))
    registry = {name: str(value) for name, value in branch(tree, "registry").items() if value is not None}
    read = _read_contexts if "contexts" in tree else _read_current
    url, entries = read(tree, env)
    return SavedLogin(file=file, url=url, entries=tuple(entries), registry=registry)


def _read_current(tree: Tree, env: Mapping[str, str]) -> tuple[str | None, list[Entry]]:
    """Read the layout of releases 1.4 and later."""
    active = branch(tree, "active")
    idp = env.get("CANFAR_ACTIVE__AUTHENTICATION") or active.get("authentication") or "cadc"
    name = env.get("CANFAR_ACTIVE__SERVER") or active.get("server") or branch(active, "servers").get(idp) or "canfar"
    servers = branch(tree, "servers")
    entries = []
    for each in branch(tree, "authentication"):
        # a server without a provider of its own goes with the active one
        mine = [server for key, server in servers.items() if _idp(server, idp if key == name else None) == each]
        entries.append(_entry(each, ("authentication", each), branch(tree, "authentication", each), mine))
    url = _server_url(servers.get(name)) or (DEFAULT_URL if name == "canfar" else None)
    return url, sorted(entries, key=lambda entry: entry.name != idp)


def _read_contexts(tree: Tree, env: Mapping[str, str]) -> tuple[str | None, list[Entry]]:
    """Read the layout of releases up to 1.3."""
    contexts = branch(tree, "contexts")
    entries = [
        _entry(each, ("contexts", each), branch(contexts, each), [branch(contexts, each, "server")])
        for each in contexts
    ]
    active = tree.get("active")
    url = _server_url(branch(contexts, active, "server")) if isinstance(active, str) else None
    return url, sorted(entries, key=lambda entry: entry.name != active)


def _entry(name: str, keys: Keys, record: Tree, servers: list[Any]) -> Entry:
    urls = filter(None, map(_server_url, servers))
    path = record.get("path")
    return Entry(
        name=name,
        mode=str(record.get("mode")),
        keys=keys,
        path=str(path) if path else None,
        origins=frozenset(origin(url) for url in urls),
    )


def _idp(server: Any, default: str | None) -> object:
    return server.get("idp") or default if isinstance(server, dict) else None


def _server_url(server: Any) -> str | None:
    if not isinstance(server, dict) or not server.get("url"):
        return None
    version = str(server.get("version") or "").strip("/")
    url = str(server["url"]).rstrip("/").removesuffix(f"/{version}")
    try:
        return platform_url(f"{url}/{version}")
    except AddressError as error:
        log.warning("A server in the saved login is not used: %s", error)
        return None


# -- the file ---------------------------------------------------------------------------------------------------------


def load_config(file: Path) -> dict[str, Any]:
    """Return the file's content.

    Raises:
        OSError: It cannot be read.
        CredentialError: It is malformed; the message says why, and quotes nothing of it.
    """
    return parse_config(file, file.read_bytes())


def parse_config(file: Path, text: bytes) -> dict[str, Any]:
    """Return the content *text* of *file*; raises as `load_config` does."""
    try:
        import yaml  # comes with the extra `canfar`; most users need no saved login
    except ImportError:
        raise CredentialMissing(f"{file} cannot be read without PyYAML: pip install PyYAML") from None
    try:
        # a parser in Python takes minutes for thousands of brackets in each other
        tree = yaml.safe_load(text) if text.count(b"[") + text.count(b"{") < _MOST_BRACKETS else None
    except (yaml.YAMLError, ValueError, RecursionError):
        tree = None  # the complaint would quote the line, and with it perhaps a token
    if not isinstance(tree, dict):
        raise CredentialError(f"{file} is not a configuration of the official client; `canfar login` makes a new one")
    return tree


def replace_config(file: Path, tree: Tree) -> None:
    """Replace the file's content, all at once."""
    import yaml

    handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")  # created with mode 0600
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            yaml.safe_dump(tree, out, sort_keys=False, allow_unicode=True)
            out.flush()
            os.fsync(out.fileno())
        Path(name).replace(file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def lock_config(file: Path, timeout: float, sleep: Callable[[float], None] = time.sleep) -> Iterator[None]:
    """Hold a lock beside *file*, so that one of our programs refreshes and the others read the outcome.

    After *timeout* seconds it goes on without the lock: two refreshes are better than none.
    """
    try:
        handle = os.open(file.with_name(f"{file.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    except OSError:
        yield  # a home that cannot be written holds no lock, and its file will not be written either
        return
    try:
        last = time.monotonic() + timeout
        while fcntl is not None:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() >= last:
                    log.warning("The lock beside %s was not free within %g s; going on without it", file, timeout)
                    break
            sleep(0.05)
        yield
    finally:
        os.close(handle)


def branch(tree: Any, *keys: str) -> dict[str, Any]:
    """Return the mapping at *keys*, or an empty one."""
    for key in keys:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree if isinstance(tree, dict) else {}
