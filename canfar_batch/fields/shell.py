"""Commands for a shell: how they are run strictly, and which constructs are refused because they hide a failure.

A failure must not pass unnoticed: the shell runs with ``set -e`` and, for pipelines, with ``pipefail``. Refused are
constructs for which that is not enough (a background job, ``a && b`` before another command), and those that a plain
sh silently reads as something else (``&>``, ``{1..3}``).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import NoReturn

from canfar_batch.errors import SpecError
from canfar_batch.fields.shell_syntax import Masked
from canfar_batch.fields.values import shortened

#: Runs a pipeline with pipefail: by sh if it has that (busybox, newer dash, bash), else by bash as a POSIX shell.
_WITH_PIPEFAIL = (
    '(set -o pipefail) 2>/dev/null && exec /bin/sh -eo pipefail -c "$1" sh; '
    'command -v bash >/dev/null && exec bash --posix -O xpg_echo -eo pipefail -c "$1" sh; '
    'echo "canfar_batch: cannot run a pipeline safely: sh has no pipefail, and there is no bash" >&2; exit 126'
)


#: Lets the command substitutions of bash end at their first failure, as those of other shells do; bash 4.4 or newer.
_INHERITED = "shopt -s inherit_errexit 2>/dev/null || :; "


def shell_argv(text: str, shell: bool | str) -> tuple[str, ...]:
    """Return the arguments that run *text* strictly in a plain sh, or in bash if *shell* says so."""
    if shell == "bash":
        return ("bash", "-eo", "pipefail", "-c", _INHERITED + text)
    if "|" in text and _has_pipeline(text):
        return ("/bin/sh", "-c", _WITH_PIPEFAIL, "sh", text)
    return ("/bin/sh", "-ec", text)


def _has_pipeline(text: str) -> bool:
    live = Masked(text).live
    return PIPE.search(live) is not None or re.search(r"\beval\b", live) is not None


def shown_command(argv: tuple[str, ...]) -> str:
    """Return *argv* as one line for people, without the text that finds a shell with pipefail."""
    if argv[:3] == ("/bin/sh", "-c", _WITH_PIPEFAIL):
        argv = ("/bin/sh", "-eo", "pipefail", "-c", argv[-1])
    if argv[:4] == ("bash", "-eo", "pipefail", "-c"):
        argv = (*argv[:4], argv[4].removeprefix(_INHERITED), *argv[5:])
    return shlex.join(argv)


def hides_failures(text: str) -> bool:
    """Return whether *text*, run by a shell that is not strict, may fail before its end without notice."""
    return re.search(r"[|;\n&]", Masked(text.strip()).live) is not None


def check_shell(text: str, shell: bool | str) -> None:
    """Refuse constructs of a shell command that could hide a failure or mean something else in a plain sh.

    Args:
        text: The command, each field replaced by a word.
        shell: True for a plain sh, or `"bash"`.

    Raises:
        SpecError: The message says what to write instead.
    """
    try:
        masked = Masked(text)
    except RecursionError:
        _refuse(text, "too many parentheses or quotes within each other", "write it to a script, and run that")
    if shell != "bash":
        _refuse_bash(text, masked)
    _refuse_background(text, masked.live)
    if _LOST_SUBSTITUTION.search(masked.live):
        _refuse(
            text,
            "a command substitution whose failure the export hides",
            "write two lines: NAME=$(…) and export NAME",
        )
    _refuse_ignored_failure(text, masked.live)
    _refuse_tested_lists(text, masked.live)
    _refuse_trap(text, masked.live)
    for inner in evaluated_texts(text, masked.live):
        check_shell(inner, shell)


def _refuse(text: str, what: str, instead: str) -> NoReturn:
    raise SpecError(f"the shell command {shortened(text)} has {what}: {instead}")


# -- what only bash understands -------------------------------------------------------------------------------------

_BEGIN = r"(?:^|[;&|(\n]|\b(?:then|do|else|if|while|until|elif)\s|(?<![\w}]){\s|!\s)[ \t]*"  # where a command may begin
_ONLY_BASH = tuple(
    (re.compile(pattern), what, instead)
    for pattern, what, instead in (
        (r"&>", "&>, which a plain sh takes for a background job", "write >FILE 2>&1"),
        (r"\|&", "|&", "write 2>&1 |"),
        (_BEGIN + r"\[\[", "[[ … ]]", "write [ … ]"),
        (r"(?:^|[\s;&|(])\[ [^\n]*? == ", "== inside [ … ]", "write = "),
        (r"\{[\w+-]*\.\.[\w+-]*(?:\.\.[\w+-]*)?\}", "a range in braces", "write $(seq 1 3), or the words themselves"),
        (r"(?<!\$)\{[^{}\s;&|()]*,[^{}\s;&|()]*\}", "a list in braces", "write the words themselves"),
        (r"[<>]\(", "a process substitution", "write a temporary file"),
        (r"(?:^|[\s;&|(])\w+\+?=\(", "an array", "write the words into a for loop, or use set -- and $@"),
        (r"<<<", "a here-string <<<", "write printf '%s\\n' … | …"),
        (r"\$'", "$'…'", 'write "$(printf …)"'),
        (_BEGIN + r"function\s", "the word function", "write name() { …; }"),
        (_BEGIN + r"\(\(", "((…)) as a command", "write $((…)) in a [ … ] or an assignment"),
        (_BEGIN + r"source\s", "source", "write . ./FILE"),
        (_BEGIN + r"echo\s+-\w*e", "echo -e", "write printf"),
        (
            _BEGIN + r"(?:declare|typeset|shopt|pushd|popd|mapfile|readarray|let|select|disown|coproc)\s",
            "a command that only bash has",
            "leave it out",
        ),
    )
)
_BASH_EXPANSION = re.compile(r"\$\{(?:!|[A-Za-z_]\w*(?:\[|/|\^|,|:\s*-?\d|:\s*\$|@))")
_BASH_VARIABLE = re.compile(
    r"\$\{?(RANDOM|SRANDOM|SECONDS|EPOCHSECONDS|EPOCHREALTIME|UID|EUID|GROUPS|PIPESTATUS|FUNCNAME|BASH\w*|HOSTTYPE"
    r"|OSTYPE|MACHTYPE)\b"
)


def _refuse_bash(text: str, masked: Masked) -> None:
    for pattern, what, instead in _ONLY_BASH:
        if pattern.search(masked.live):
            _refuse(text, what, f'{instead}, or say shell="bash"')
    if _BASH_EXPANSION.search(masked.expanded):
        _refuse(text, "an expansion that only bash has", 'say shell="bash"')
    if found := _BASH_VARIABLE.search(masked.expanded):
        _refuse(text, f"${found[1]}, which only bash sets (a plain sh finds it empty)", 'say shell="bash"')


# -- failures that the shell does not notice ------------------------------------------------------------------------

PIPE = re.compile(r"(?<![|>])\|(?!\|)")
_BACKGROUND = re.compile(r"(?<![&<>|;])&(?![&>])")
_WAIT_FOR_ONE = re.compile(r"\bwait[ \t]+(?:-n|[^\s;&|)]+)[ \t]*(?=[\s;&|)]|\Z)(?![ \t]*[^\s;&|)])")
_WAIT_FOR_ALL = re.compile(r"\bwait[ \t]*(?=[;&|)\n]|\Z)")
_LISTED_JOBS = re.compile(r"\bjobs\b")  # a list without those that have ended; always empty in $(…) of a plain sh
_DETACHED = re.compile(r"\bsetsid\s+(?:-\w*f|--fork)|\bscreen\s+(?:-\w+\s+)*-\w*d|\btmux\s+new\S*\s[^;\n]*-d\b")
_LOOP = re.compile(r"\b(?:do|done)\b")
_LOST_SUBSTITUTION = re.compile(_BEGIN + r"(?:export|readonly|local|declare|typeset)\s[^;\n]*?=[^\s;&|(]*?(?:\$\(|`)")


def _refuse_background(text: str, live: str) -> None:
    """Refuse a background job unless a later `wait` is for it alone: only then does its failure end the command."""
    jobs = [found.end() for found in _BACKGROUND.finditer(live)]
    waits = [found.start() for found in _WAIT_FOR_ONE.finditer(live, jobs[-1])] if jobs else []
    has_one_each = len(waits) >= len(jobs) and not any(_in_loop(live, job) for job in jobs)
    in_loops = [wait for wait in waits if _in_loop(live, wait)]
    leaves_some = _LISTED_JOBS.search(live) or (in_loops and _WAIT_FOR_ALL.search(live, in_loops[-1]))
    is_waited_for = not jobs or (not leaves_some and (has_one_each or bool(in_loops)))
    if _DETACHED.search(live) or not is_waited_for:
        _refuse(
            text,
            "a background job (&), which is killed when the command ends, and whose failure nobody notices",
            "leave the & out, or wait for each one by its number: … & first=$!; … & second=$!; "
            "wait $first; wait $second",
        )


def _in_loop(live: str, at: int) -> bool:
    return sum(1 if found[0] == "do" else -1 for found in _LOOP.finditer(live, 0, at)) > 0


#: an and-or list with its pipelines: everything up to ; or the end of the line, lines continued after an operator
_LIST = re.compile(r"(?:[^;\n()&|]|&&\s*|\|\|\s*|\|\s*|[<>]&)+")
KEYWORD = re.compile(r"^(?:\s|\b(?:then|do|else)\b|\{\s)*")
_CONDITION = re.compile(r"(?:if|elif|while|until|case|for)\b")
TESTS = frozenset(
    ("[", "[[", "test", "!", "command", "type", "which", "hash", "grep", "egrep", "fgrep", "cmp", "diff", "true", ":")
)
_CLOSED = re.compile(r"[\s;)}]*(?:(?:fi|esac)\b[\s;)}]*)*")


def _refuse_ignored_failure(text: str, live: str) -> None:
    """Refuse ``a && b`` before another command: if *a* fails, the shell goes on with that command."""
    for found in _LIST.finditer(live):
        commands = KEYWORD.sub("", found[0])
        if re.match(r"!\s", commands) and "&&" not in commands and "||" not in commands:
            if not _CLOSED.fullmatch(live[found.end() :]):
                _refuse(text, "a command after a ! …, whose result the shell ignores", "write if …; then exit 1; fi")
            continue
        if "&&" not in commands or "||" in commands or _CONDITION.match(commands):
            continue
        firsts = [(command.split() or [""])[0] for command in commands.split("&&")[:-1]]
        rest = live[found.end() :]
        if set(firsts) <= TESTS or rest.lstrip().startswith(")") or _CLOSED.fullmatch(rest):
            continue
        _refuse(
            text,
            "commands after a … && …, which the shell runs although the first part failed",
            "write each command on a line of its own (the first failure ends the job), or if …; then …; fi",
        )


#: an end of a group, loop or condition, and an operator that tests it, unless it ignores any failure on purpose
_TESTED_END = re.compile(
    r"(?:(?P<bracket>[)}])|\b(?:done|fi|esac)\b[^;\n&|]*?)[ \t]*(?:&&|\|\|(?!\s*(?:true\b|:(?:\s|$))))"
)
_TESTED_BEGIN = re.compile(
    r"\b(?:if|elif|while|until)\s+(?:!\s+)?(?P<bracket>\(|\{\s)|(?:^|[;\n&|(]\s*)!\s+(?P<not>\(|\{\s)"
)
_TESTED_LIST = re.compile(
    r"(?:^|[;&|(\n]|(?<![\w}]){\s|\b(?:then|do|else)\s)\s*(?:if|elif|while|until)\s(?P<list>.*?)"
    r"[;\n]\s*(?:then|do)\b",
    re.DOTALL,
)
_TESTED_SUBSTITUTION = re.compile(r"(?:^|[\s;&|(])\w+\+?=\S*?\$(?P<bracket>\()")
_FUNCTION = re.compile(
    r"(?:^|[\s;&|(])(?P<word>function[ \t]+)?(?P<name>[A-Za-z_]\w*)[ \t]*(?(word)(?:\(\))?|\(\))\s*(?P<open>[{(])"
)
_SEVERAL = re.compile(r"[;\n]\s*\S")
_TESTING = r"(?:[^;&|\n]|\|(?!\|)|[<>]&)*(?:&&|\|\|(?!\s*(?:true\b|:(?:\s|$))))"  #: up to an operator that tests


def _refuse_tested_lists(text: str, live: str) -> None:
    """Refuse several commands whose result is tested: inside, no shell ends at the first failure."""
    bodies = _several_in_functions(live)
    evaluated = any(_SEVERAL.search(Masked(inner).live.strip("; \n")) for inner in evaluated_texts(text, live))
    names = "|".join(map(re.escape, bodies)) + (r"|eval(?=\s)" if bodies and evaluated else "eval" if evaluated else "")
    call = re.compile(rf"(?:{_BEGIN}|\btime\s+)(?P<name>{names})\b(?!\s*\()") if names else _NEVER

    def is_several(begin: int) -> bool:
        inside = text_inside(live, begin)
        return _SEVERAL.search(inside) is not None or call.search(inside) is not None

    for found in _TESTED_END.finditer(live):
        begin = _opening(live, found.start("bracket")) if found["bracket"] else None
        is_loop = found["bracket"] is None
        is_group = begin is not None and not live[: begin + 1].endswith(("$(", "${", "<(", ">(", "=("))
        if is_loop or (is_group and is_several(begin or 0)):
            _refuse_tested(text, "several commands before && or ||")
    for found in _TESTED_BEGIN.finditer(live):
        begin = found.start("bracket") if found["bracket"] else found.start("not")
        if live[begin : begin + 2] != "((" and is_several(begin):
            _refuse_tested(text, "several commands as a condition")
    for found in _TESTED_LIST.finditer(live):
        if _SEVERAL.search(found["list"].strip()) or call.search(found["list"]):
            _refuse_tested(text, "several commands as a condition")
    for found in _TESTED_SUBSTITUTION.finditer(live):
        begin = found.start("bracket")
        end = begin + 1 + len(text_inside(live, begin, strip=False))
        if is_several(begin) and re.match(r"\)[^\s;&|]*" + _TESTING, live[end:]):
            _refuse_tested(text, "several commands before && or ||")
    for found in call.finditer(live):
        if re.match(_TESTING, live[found.end() :]) or re.search(r"(?:^|[;\n&|(]\s*)!\s*$", live[: found.start("name")]):
            _refuse_tested(text, f"the function {found['name']} as a condition")


_NEVER = re.compile(r"(?!)")


def _several_in_functions(live: str) -> dict[str, str]:
    """Return the functions that run several commands, themselves or by others, and their texts."""
    bodies = {found["name"]: text_inside(live, found.start("open")) for found in _FUNCTION.finditer(live)}
    several = {name: body for name, body in bodies.items() if _SEVERAL.search(body)}
    while True:
        call = re.compile(_BEGIN + f"(?:{'|'.join(map(re.escape, several))})\\b") if several else _NEVER
        more = {name: body for name, body in bodies.items() if name not in several and call.search(body)}
        if not more:
            return several
        several |= more


_EVAL = re.compile(_BEGIN + r"eval\s+")


def evaluated_texts(text: str, live: str) -> Iterator[str]:
    """Yield the quoted commands that the command gives to eval."""
    for found in _EVAL.finditer(live):
        if quoted := QUOTED_WORD.match(text, found.end()):
            yield quoted[2]


def _refuse_tested(text: str, what: str) -> NoReturn:
    _refuse(
        text,
        f"{what}, in which the shell goes on after a failure",
        "write each command on a line of its own (the first failure ends the job), or several && … in the condition",
    )


_BRACKETS = re.compile(r"[(){}]")


def _opening(live: str, closing: int) -> int | None:
    """Return where the bracket opens that is closed at *closing*; None if nothing opens it, as in a case."""
    open_at: list[int] = []
    for found in _BRACKETS.finditer(live, 0, closing + 1):
        if found[0] in "({":
            open_at.append(found.start())
        elif open_at:
            begin = open_at.pop()
            if found.start() == closing:
                return begin
    return None


def text_inside(live: str, opening: int, *, strip: bool = True) -> str:
    """Return the text between the bracket at *opening* and the one that closes it, without a last semicolon."""
    depth = 0
    for found in _BRACKETS.finditer(live, opening):
        depth += 1 if found[0] in "({" else -1
        if depth == 0:
            inside = live[opening + 1 : found.start()]
            return inside.strip().rstrip(";") if strip else inside
    return ""


_TRAP = re.compile(_BEGIN + r"trap\s+(?:--\s+)?")
QUOTED_WORD = re.compile(r"(['\"])((?:(?!\1).)*)\1", re.DOTALL)
_TRAPPED = re.compile(r"[^;\n]*\b(?:EXIT|ERR|0)\b")
_EXIT = re.compile(r"(?:^|[\s;&|{(])exit(?:[ \t]+(?P<code>[^\s;&|})]+))?")


def _refuse_trap(text: str, live: str) -> None:
    """Refuse ``trap 'exit 0' EXIT``, and others that make every failure a success."""
    bodies = {found["name"]: text_inside(live, found.start("open")) for found in _FUNCTION.finditer(live)}
    for found in _TRAP.finditer(live):
        quoted = QUOTED_WORD.match(text, found.end())
        bare = re.compile(r"\w+").match(text, found.end())
        action = quoted[2] if quoted else bare[0] if bare else ""
        end = quoted.end() if quoted else bare.end() if bare else found.end()
        action = bodies.get(action.strip(), action)
        if _TRAPPED.match(live[end:]) and (lost := _exit_of_success(action)):
            _refuse(
                text,
                "a trap that may end the command with 0 after a failure",
                f"leave the {lost} out; the command ends with its own exit code anyway",
            )


def _exit_of_success(action: str) -> str | None:
    """Return an exit in the action of a trap that forgets with which code the command ended; None if there is none."""
    kept = re.match(r"\s*(?:local\s+)?(\w+)=\"?\$\?", action)
    for found in _EXIT.finditer(action):
        code = (found["code"] or "").strip("\"'")
        is_kept = (kept and code.strip("${}") == kept[1]) or (code == "$?" and not action[: found.start()].strip())
        if code and not re.fullmatch(r"[1-9]\d*", code) and not is_kept:
            return f"exit {code}"
    return None
