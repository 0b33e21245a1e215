"""Constructs that may hide a failure of a command, although they may be meant; they bring a warning."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from canfar_batch.errors import SpecError
from canfar_batch.fields.shell import (
    KEYWORD,
    PIPE,
    QUOTED_WORD,
    TESTS,
    check_shell,
    evaluated_texts,
    hides_failures,
    text_inside,
)
from canfar_batch.fields.shell_syntax import Masked


def shell_doubts(text: str, shell: bool | str) -> Iterator[str]:
    """Yield what may let a failure of a shell command pass unnoticed, although it may be meant, as sentences.

    Args:
        text: The command, each field replaced by a word.
        shell: True for a plain sh, or `"bash"`.
    """
    live = Masked(text).live
    if found := _LAX.search(live):
        yield f"{found['what']} lets the command go on after a failure"
    yield from _alternatives(live)
    yield from _nested_shells(text, live)
    if found := _FIND_EXEC.search(text):
        yield "find -exec … \\; ignores failures: write -exec … {} +, or find … | xargs"
    if shell == "bash" and (found := re.search(r"[<>]\(|\bcoproc\b", live)):
        yield f"the failure of a command in {'coproc' if found[0] == 'coproc' else found[0] + '…)'} is not noticed"
    for found in _SUBSTITUTION.finditer(live):
        command = found["command"] or found["quoted"]
        if command not in _HARMLESS and not _is_noticed(live, found):
            yield (
                f"a failure of {command} in $(…) is not noticed, because it is part of another command: write "
                "NAME=$(…) on a line of its own, then $NAME"
            )
            break
    for inner in evaluated_texts(text, live):
        yield from shell_doubts(inner, shell)


def argv_doubts(words: Sequence[str]) -> Iterator[str]:
    """Yield what may let a failure of a command pass unnoticed that calls a shell itself, as sentences.

    Args:
        words: The command's words, fields not filled.
    """
    for place, word in enumerate(words):
        if not _SHELL.fullmatch(word):
            continue
        for at in range(place + 1, len(words) - 1):
            if re.fullmatch(r"-\w*c", words[at]):
                yield from _weak_shell(word, " ".join(words[place + 1 : at + 1]), words[at + 1])
                return
            if not words[at].startswith("-") and words[at - 1] not in ("-o", "+o"):
                break


# -- a || b ---------------------------------------------------------------------------------------------------------

_OR = re.compile(r"\|\|\s*")
_WORD = re.compile(r"(?:\w+=(?P<value>\S*)|[\w./-]+)")
#: commands that report or tidy up, and do not do the work in another way
_REPORTS = frozenset(
    ("echo", "printf", "logger", "touch", "rm", "cp", "mv", "mkdir", "date", "cat", "mail", "continue", "break")
)
_LEAVES = re.compile(r"\b(?:exit|return)\s+\"?(?:[1-9]|\$\w)|\bfalse\b|\bkill\b")


def _alternatives(live: str) -> Iterator[str]:
    """Yield a doubt about ``a || b`` if *b* only reports the failure."""
    for found in _OR.finditer(live):
        commands = KEYWORD.sub("", re.split(r"[\n;]|\|\|", live[: found.start()])[-1]).split("&&")
        if {(command.split() or ["true"])[0] for command in commands} <= TESTS:
            continue
        word = _report(live, found.end())
        if word is not None:
            yield (
                f"with || {word} a failure counts as a success: write || {{ {word} …; exit 1; }}, or leave it "
                "out, because a failure is reported anyway"
            )
            return


def _report(live: str, begin: int) -> str | None:
    """Return the first word of what follows ``||``, if it only reports the failure; else None."""
    if live[begin : begin + 1] in ("{", "("):
        inside = text_inside(live, begin)
        first = (inside.split() or [""])[0]
        leaves = first in ("exit", "return") or _LEAVES.search(inside)
        return None if leaves or first in ("", "true", ":") else first
    found = _WORD.match(live, begin)
    if found is None:
        return None
    if found["value"] is not None:
        name = found[0].partition("=")[0]
        is_used = re.search(rf"\b(?:exit|return|test|if)\b[^\n;]*\b{name}\b|\[[^\n;]*\b{name}\b", live[found.end() :])
        return None if is_used else found[0]
    rest = re.match(r"(?:[^;\n&|]|[<>]&)*(?P<more>&&|\|\|)?", live[found.end() :])
    return found[0] if found[0] in _REPORTS and not (rest and rest["more"] == "||") else None


# -- another shell --------------------------------------------------------------------------------------------------

_SHELL = re.compile(r"(?:\S*/)?(?:ba|da|k|z|a)?sh")
_NESTED_SHELL = re.compile(
    r"(?:^|[\s;&|({])(?P<shell>(?:[^\s;&|({]*/)?(?:ba|da|k|z|a)?sh)(?P<flags>(?:\s+(?:[-+]o\s+\w+|--?[\w-]+))*\s+-\w*c)\s+"
)
_FED_SHELL = re.compile(
    r"(?P<pipe>(?<!\|)\|\s*)?(?:\b(?:env|exec|nice|time|nohup)\s+)?(?<![\w./-])(?P<shell>(?:[^\s;&|({]*/)?(?:ba|da|k|z)?sh)"
    r"(?P<flags>(?:\s+-{1,2}\w[\w-]*)*)[ \t]*(?P<end><|(?=[;\n&|)]|\Z))"
)


def _nested_shells(text: str, live: str) -> Iterator[str]:
    for inner in _NESTED_SHELL.finditer(live):
        if quoted := QUOTED_WORD.match(text, inner.end()):
            yield from _weak_shell(inner["shell"], inner["flags"], quoted[2])
    for inner in _FED_SHELL.finditer(live):
        is_fed = inner["pipe"] or inner["end"] == "<"
        if is_fed and not re.search(r"(?:^|\s)-\w*e", inner["flags"]):
            yield (
                f"{inner['shell']} reads commands from its input and does not end at the first failure, which may pass "
                f"unnoticed: write them directly, or {inner['shell']} -e"
            )


def _weak_shell(shell: str, flags: str, script: str) -> Iterator[str]:
    """Yield a doubt if a shell with these *flags* may go on after a failure in the text *script*."""
    name = shell.rpartition("/")[2]
    says_so = re.match(r"\s*set\s+(?:-\w*e\w*|-o\s+errexit)\b", script)
    if not says_so and not re.search(r"(?:^|\s)-\w*e|errexit", flags):
        if hides_failures(script):
            yield (
                f"{name} -c does not end at the first failure, which may pass unnoticed: write its text as the "
                f"command, with shell=True, or {name} -ec"
            )
        return
    live = Masked(script).live
    if PIPE.search(live) and "pipefail" not in flags + script:
        yield (
            f"{name} -ec notices only a failure of the last command of a pipeline: write its text as the command, with "
            "shell=True, or bash -eo pipefail -c"
        )
    try:
        check_shell(script, "bash")
    except (SpecError, RecursionError) as error:
        yield str(error)


# -- others ---------------------------------------------------------------------------------------------------------

_LAX = re.compile(
    r"(?:^|[\s;&|({])(?P<what>set\s+(?:[-+]\w+\s+)*(?:\+\w*e\w*|\+o\s+(?:errexit|pipefail))|shopt\s+-u\s+inherit_errexit)"
)
_FIND_EXEC = re.compile(r"\bfind\s(?:[^\n|]|\\\n)*-(?:exec|execdir|ok)\s(?:[^\n|]|\\\n)*(?:\\;|';'|\";\")")
_SUBSTITUTION = re.compile(r"\$\(\s*(?P<command>[\w./-]+)|(?<!\\)`\s*(?P<quoted>[\w./-]+)[^`]*`?")
_ASSIGNED = re.compile(r"(?:^|[\s;&|(])\w+\+?=[^\s]*$")
_COMPARED = re.compile(r"(?:^|[\s;&|(])(?:\[\[?|test)\s[^;\n]*$")
#: commands that do not fail, or whose failure shows
_HARMLESS = frozenset(
    ("seq", "date", "nproc", "basename", "dirname", "pwd", "echo", "printf", "expr", "whoami", "hostname", "id",
     "uname", "mktemp", "true", "which", "command", "jobs")
)  # fmt: skip


def _is_noticed(live: str, found: re.Match[str]) -> bool:
    """Return whether the exit code of a substitution counts: it is compared, or the command only assigns it."""
    before = live[: found.start()]
    if _COMPARED.search(before):
        return True
    if not _ASSIGNED.search(before):
        return False
    end = found.end()
    if found["command"]:
        opening = found.start() + 1
        end = opening + len(text_inside(live, opening, strip=False)) + 2
    return re.match(r"[^\s;&|)]*[ \t]*(?:(?:\w+=[\w./-]*|[<>]\S+)[ \t]*)*(?:[;\n&|)}#]|\Z)", live[end:]) is not None
