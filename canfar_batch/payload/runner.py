"""The program that calls a user's function in the container. It runs from the archive that carries the function.

`functions.archive` puts it there, beside cloudpickle and the function. It needs nothing but Python, of the version that
compiled the function, and imports nothing of this package.

The outcome is a header in JSON and a compressed pickle. It goes to the file `$CANFAR_BATCH_RESULT` if the container
sees the batch's home; else to standard output, in lines like those of a receipt, up to `MOST_IN_LOG` bytes.
"""

from __future__ import annotations

import base64
import hashlib
import inspect
import json
import linecache
import os
import pickle
import shutil
import sys
import traceback
import zipimport
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

MARK = "#canfar_batch"  #: the beginning of the wrapper's lines; a test compares it with `payload.wrapper`
MOST_IN_LOG = 1 << 20  #: bytes of an outcome, compressed, that may go through the log
_PIECE = 3000  #: bytes in one line, which a pipe takes whole (PIPE_BUF)


def main(archive: str, name: str, words: Sequence[str]) -> int:
    """Call the function of *archive* with the arguments in *words*, report the outcome, and return the exit code.

    Args:
        archive: The path of the archive.
        name: The name under which the function was sent.
        words: The arguments, as `functions` wrote them: `x=1.5` in JSON, or `x=@DIGEST` for a file.
    """
    import cloudpickle  # from the archive

    sys.path.append(str(Path.cwd()))
    member = zipimport.zipimporter(archive).get_data
    sources = json.loads(member("sources.json"))
    for file, text in sources["texts"].items():
        linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    codes = [_Code(*code) for code in sources["codes"]]
    outcome = _Outcome({"name": name, "launch": os.environ["CANFAR_BATCH_LAUNCH"]})
    try:
        function = pickle.loads(member("function.pkl"))  # noqa: S301 (the user's own)
        value = _call(function, dict(_argument(word, Path(archive).parent) for word in words))
        try:
            body = cloudpickle.dumps(value)
        except Exception as error:
            raise TypeError(f"the return value, a {type(value).__name__}, cannot be pickled: {error}") from error
        outcome.report(body, returned=True)
    except Exception as error:
        text = _formatted(error, codes)
        sys.stdout.flush()
        sys.stderr.write(text)
        sys.stderr.flush()
        outcome.report_exception(error, text, cloudpickle.dumps)
        return 1
    finally:
        if not os.environ["CANFAR_BATCH_RESULT"]:  # the files came with the launch, for this call alone
            shutil.rmtree(Path(archive).parent, ignore_errors=True)
    return 0


def _argument(word: str, folder: Path) -> tuple[str, Any]:
    name, _, text = word.partition("=")
    if not text.startswith("@"):
        return name, json.loads(text)
    return name, pickle.loads((folder / f"{text[1:]}.pkl").read_bytes())  # noqa: S301 (the user's own)


def _call(function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    """Call *function* by the names of its parameters; those that have only a place are given by place."""
    placed = [
        arguments.pop(parameter.name)
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind is inspect.Parameter.POSITIONAL_ONLY and parameter.name in arguments
    ]
    return function(*placed, **arguments)


# -- the outcome ----------------------------------------------------------------------------------------------------


class _Outcome:
    """Where the outcome goes."""

    def __init__(self, header: dict[str, Any]) -> None:
        self._header = header

    def report(self, body: bytes, **facts: Any) -> None:
        """Write the outcome.

        Raises:
            ValueError: It is too large for the log.
        """
        packed = zlib.compress(body)
        header = {**self._header, **facts, "sha256": hashlib.sha256(packed).hexdigest()}
        content = json.dumps(header).encode() + b"\n" + packed
        if place := os.environ["CANFAR_BATCH_RESULT"]:
            _write_file(Path(place), content)
        elif len(content) <= MOST_IN_LOG:
            _write_lines(content, header["launch"])
        else:
            raise ValueError(
                f"the return value takes {len(content):,} bytes, compressed, and {MOST_IN_LOG:,} can go through the "
                "log, the only way back from a container that does not see the batch's home: write it to a file, and "
                "return the file's name"
            )

    def report_exception(self, error: Exception, text: str, dumps: Callable[[object], bytes]) -> None:
        """Write an exception as the outcome: its text, and the exception itself if it can be pickled."""
        lines = "".join(traceback.format_exception_only(type(error), error)).strip().splitlines()
        facts = {"returned": False, "line": lines[-1][:500], "traceback": text[-20_000:]}
        try:
            self.report(dumps(error.with_traceback(None)), **facts)
        except Exception:  # an exception may hold what cannot be pickled, or is too large
            self.report(b"", **facts)


def _write_file(place: Path, content: bytes) -> None:
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = place.with_name(f".{place.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        _write(descriptor, content)
    finally:
        os.close(descriptor)
    temporary.replace(place)


def _write_lines(content: bytes, launch: str) -> None:
    text = base64.b64encode(content).decode()
    pieces = [text[at : at + _PIECE] for at in range(0, len(text), _PIECE)]
    sys.stdout.flush()
    for number, piece in enumerate(pieces, 1):
        _write(1, f"\n{MARK} {launch} outcome {number}/{len(pieces)} {piece} #{launch}\n".encode())


def _write(descriptor: int, content: bytes) -> None:
    while content:
        content = content[os.write(descriptor, content) :]


# -- tracebacks -----------------------------------------------------------------------------------------------------


class _Code:
    """Code that was sent, and the file that it came from."""

    def __init__(self, name: str, first_line: int, file: str) -> None:
        self.name, self.first_line, self.file = name, first_line, file


_NO_FILE = "<dynamic-code>"  # what cloudpickle writes in the place of a file


def _formatted(error: BaseException, codes: Sequence[_Code]) -> str:
    """Return the traceback of *error* as text, with the files and lines as the user wrote them."""
    shown = traceback.TracebackException(type(error), error, _own_frames(error.__traceback__))
    pending = [shown]
    while pending:
        one = pending.pop()
        one.stack = traceback.StackSummary.from_list([_in_its_file(frame, codes) for frame in one.stack])
        pending += [other for other in (one.__cause__, one.__context__) if other is not None]
    return "".join(shown.format())


def _own_frames(trace: TracebackType | None) -> TracebackType | None:
    """Return *trace* from the user's function on, without this program's frames."""
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    return trace


def _in_its_file(frame: traceback.FrameSummary, codes: Sequence[_Code]) -> traceback.FrameSummary:
    line = frame.lineno or 0
    begun = [code for code in codes if code.name == frame.name and code.first_line <= line]
    if frame.filename != _NO_FILE or not begun:
        return frame
    return traceback.FrameSummary(max(begun, key=lambda code: code.first_line).file, line, frame.name)
