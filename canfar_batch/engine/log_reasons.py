"""What a log says about the end of a job: the line that states the reason, and signs of known troubles."""

from __future__ import annotations

import re

from canfar_batch.text import printable, without_escapes

TAIL = 65536  #: bytes of a log's end in which reasons are looked for: enough for any traceback
DISK_FULL = re.compile(rb"No space left on device|Disk quota exceeded", re.IGNORECASE)
NO_WRAPPER = re.compile(rb"base64: (not found|command not found|inaccessible)|/bin/sh: .*not found", re.IGNORECASE)

#: lines that state why a program ended, the most telling kind first
_REASONS: tuple[re.Pattern[str], ...] = (
    re.compile(
        r"""
        ^(?:\[[^\]]{1,40}\]:?\s*)?                                            # "[rank0]: " of a launcher
        (?!SystemExit\b)
        (?:[A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit)(?::|\Z)          # end of a Python traceback
        |what\(\):                                                            # of a C++ exception
        |panic: | thread\ .*\ panicked                                         # Go, Rust
        |Exception\ in\ thread | Caused\ by:                                 # Java
        |forrtl:\ severe)                                                      # Intel Fortran
        |\b(?:FATAL|CRITICAL|PANIC)\b
        |\bAssertion\ .*failed | terminate\ called\ without
        |^fatal(?:\ error)?:
        """,
        re.VERBOSE,
    ),
    re.compile(
        r"^Error using |\bUnable to\b|\b(?:ERROR|SEVERE)\b|\b[Ee]rror(?: in [^:]{1,80})?\s?:"
        r"|command not found|: not found|No such file or directory|Permission denied|[Ee]xec format error"
        r"|No space left on device|Disk quota exceeded"
    ),
    re.compile(
        r"\b(?:free|malloc|realloc|munmap_chunk)\(\): |double free|stack smashing detected|MPI_ABORT was invoked"
        r"|\bcorrupted (?:size|double|unsorted)"
    ),
    re.compile(r"Segmentation fault|core dumped|Bus error|Illegal instruction|^Killed\b|\bAborted\b"),
    re.compile(r"(?:Error|Exception)\b|error|fatal|cannot|not found|denied|No such|failed|Killed", re.IGNORECASE),
)
#: words that name an error and report none: counts of 0, and errors of measurement
_NO_ERROR = re.compile(
    r"\b(?:0|no|zero|without(?: any)?) (?:fatal )?(?:errors?|failures?|failed)\b"
    r"|\b(?:errors?|failures?|failed)\s*[:=]\s*0\b"
    r"|\b(?:rms|std|standard|mean|median|relative|absolute|systematic|photometric|astrometric|fit|fitting) errors?\b"
    r"|\berrors?\s*=\s*[-+]?[\d.]+|^with errorcode \S+|^Error in \S+ \(line \d+\)$",
    re.IGNORECASE,
)


_REMARK = re.compile(r"\W*(?:WARN(?:ING)?|INFO|DEBUG|NOTE)\b")  #: the beginning of a line that reports no failure


def telling_line(log: bytes) -> str:
    """Return the line of a log that best explains a failure, as at most 300 characters; the last line if none does.

    A line that states a reason (the end of a traceback, `what():`, FATAL) wins over one that mentions an error, and of
    lines of one kind the last one wins.
    """
    text = without_escapes(log[-TAIL:].decode(errors="replace"))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    candidates = [(line, _NO_ERROR.sub("", line)) for line in reversed(lines)]
    for reason in _REASONS:
        for line, checked in candidates:
            if reason.search(checked) and not (reason is _REASONS[-1] and _REMARK.match(line)):
                return printable(line)[:300]
    return printable(lines[-1])[:300] if lines else ""
