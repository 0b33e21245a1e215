"""What identifies a function: its code and all that the code refers to, the same in every process."""

from __future__ import annotations

import ast
import dis
import functools
import hashlib
import sys
import types
from collections.abc import Iterable, Iterator
from typing import Any

import attrs

from canfar_batch.functions.modules import is_local, sources


@attrs.frozen
class Identity:
    """A function's digest, and the modules and source files that it needs beside its own code."""

    digest: str  #: 10 hex digits
    modules: tuple[str, ...]  #: names of packages and modules of the user, whose files travel with the function
    codes: tuple[tuple[str, int, str], ...]  #: name, first line and file of the code that is sent, for tracebacks


def identify(function: Any) -> Identity:
    """Return the identity of *function*.

    Comments, line numbers and file names make no difference. The version of Python does, because it compiles the code.
    """
    walk = _Walk()
    walk.take(function)
    return Identity(walk.digest(), tuple(sorted(walk.modules)), tuple(sorted(walk.codes)))


def digest_of(value: Any) -> str:
    """Return 20 hex digits that are the same for equal values, in every process.

    Raises:
        Exception: The value cannot be pickled.
    """
    import cloudpickle
    from joblib import hash as joblib_hash

    try:
        return str(joblib_hash(value, hash_name="sha1"))[:20]
    except Exception:  # it knows no functions and no classes of a notebook
        return hashlib.sha1(cloudpickle.dumps(value), usedforsecurity=False).hexdigest()[:20]


class _Walk:
    """Goes through a function and everything it refers to, each object once."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256("{}.{}".format(*sys.version_info).encode())
        self._seen: dict[int, tuple[int, Any]] = {}  # the objects themselves, so that their ids stay theirs
        self.modules: set[str] = set()
        self.codes: set[tuple[str, int, str]] = set()

    def digest(self) -> str:
        for name in sorted(self.modules):
            for path, content in sources(name):
                self._note("source", path, hashlib.sha256(content).hexdigest())
        return self._hash.hexdigest()[:10]

    def _note(self, *words: object) -> None:
        self._hash.update(repr(words).encode("utf-8", "backslashreplace"))

    def take(self, value: Any) -> None:
        """Take the value into the digest."""
        if type(value) in (str, int, float, bool, bytes, complex, types.NoneType, types.EllipsisType):
            self._note(value)
        elif id(value) in self._seen:
            self._note("again", self._seen[id(value)][0])
        else:
            self._seen[id(value)] = len(self._seen), value
            self._take_object(value)

    def _take_object(self, value: Any) -> None:
        if isinstance(value, types.FunctionType):
            self._function(value)
        elif isinstance(value, types.CodeType):
            self._code(value)
        elif isinstance(value, type):
            self._class(value)
        elif isinstance(value, types.ModuleType):
            self._module(value.__name__)
        elif isinstance(value, types.MethodType):
            self._all("method", (value.__func__, value.__self__))
        elif isinstance(value, functools.partial):
            self._all("partial", (value.func, value.args, value.keywords))
        elif isinstance(value, (list, tuple)):
            self._all(type(value).__name__, value)
        elif isinstance(value, dict):
            self._all("dict", (part for pair in value.items() for part in pair))
        elif isinstance(value, (set, frozenset)):
            self._note("set", sorted(map(repr, value)))
        elif isinstance(value, (staticmethod, classmethod)):
            self._all(type(value).__name__, (value.__func__,))
        elif isinstance(value, property):
            self._all("property", (value.fget, value.fset, value.fdel))
        else:
            self._other(value)

    def _all(self, kind: str, values: Iterable[Any]) -> None:
        self._note(kind)
        for value in values:
            self.take(value)

    def _function(self, function: types.FunctionType) -> None:
        if self._is_reference(function):
            return
        self._code(function.__code__)
        self._all("defaults", (function.__defaults__, function.__kwdefaults__))
        for cell in function.__closure__ or ():
            try:
                self.take(cell.cell_contents)
            except ValueError:  # a variable that has no value yet
                self._note("empty")
        for name in sorted(_globals(function.__code__)):
            if name in function.__globals__:
                self._note("global", name)
                self.take(function.__globals__[name])

    def _code(self, code: types.CodeType) -> None:
        self.codes.add((code.co_name, code.co_firstlineno, code.co_filename))
        self._note(
            code.co_code, code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars,
            code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags,
        )  # fmt: skip
        self._all("constants", code.co_consts)
        for name in _imports(code):
            self._module(name)

    def _class(self, kind: type) -> None:
        if self._is_reference(kind):
            return
        self._all("class", (kind.__qualname__, kind.__bases__))
        for name, member in sorted(vars(kind).items()):
            if name not in _CLASS_DETAILS:
                self._note(name)
                self.take(member)

    def _is_reference(self, thing: Any) -> bool:
        """Note the name alone of what every container has, or gets as a source file, and return whether it is such."""
        module = thing.__module__ or "__main__"
        if module == "__main__" or module not in sys.modules or "<locals>" in thing.__qualname__:
            return False
        self._note("reference", module, thing.__qualname__)
        self._module(module)
        return True

    def _module(self, name: str) -> None:
        top = name.partition(".")[0]
        self._note("module", name)
        if top in self.modules or top == "__main__" or not is_local(top):
            return
        self.modules.add(top)
        for path, content in sources(top):
            for used in sorted(_imports_of_source(content, path)):
                self._module(used)

    def _other(self, value: Any) -> None:
        """Take an object of another kind by what it holds."""
        self._module(type(value).__module__)
        try:
            self._note(type(value).__qualname__, digest_of(value))
        except Exception:
            self._note(type(value).__qualname__)


#: what differs from process to process, or says nothing about what a class does
_CLASS_DETAILS = frozenset(
    {
        "__dict__", "__slotnames__", "__weakref__", "__doc__", "__module__", "__firstlineno__", "__static_attributes__",
        "__annotations__", "__annotate__", "__annotate_func__", "__annotations_cache__", "__abstractmethods__",
        "_abc_impl",
    }
)  # fmt: skip


def _globals(code: types.CodeType) -> set[str]:
    """Return the names that *code*, and the code in it, takes from its globals."""
    return {name for part in _parts(code) for name in _arguments_of(part, "LOAD_GLOBAL", "LOAD_NAME")}


def _imports(code: types.CodeType) -> Iterator[str]:
    """Yield the names of the modules that *code* itself imports when it runs."""
    return filter(None, _arguments_of(code, "IMPORT_NAME"))


def _arguments_of(code: types.CodeType, *operations: str) -> Iterator[str]:
    return (one.argval for one in dis.get_instructions(code) if one.opname in operations)


def _parts(code: types.CodeType) -> Iterator[types.CodeType]:
    """Yield *code*, and the code of the functions and classes in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _parts(constant)


@functools.lru_cache(maxsize=4096)
def _imports_of_source(content: bytes, path: str) -> frozenset[str]:
    """Return the modules that a source file imports anywhere in it; relative ones are in its own package."""
    try:
        tree = ast.parse(content, path)
    except (SyntaxError, ValueError):
        return frozenset()  # importing it will say so
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module)
    return frozenset(names)
