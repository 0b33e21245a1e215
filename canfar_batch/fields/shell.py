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
    live = _Masked(text).live
    return _PIPE.search(live) is not None or re.search(r"\beval\b", live) is not None


def shown_command(argv: tuple[str, ...]) -> str:
    """Return *argv* as one line for people, without the text that finds a shell with pipefail."""
    if argv[:3] == ("/bin/sh", "-c", _WITH_PIPEFAIL):
        argv = ("/bin/sh", "-eo", "pipefail", "-c", argv[-1])
    if argv[:4] == ("bash", "-eo", "pipefail", "-c"):
        argv = (*argv[:4], argv[4].removeprefix(_INHERITED), *argv[5:])
    return shlex.join(argv)


def hides_failures(text: str) -> bool:
    """Return whether *text*, run by a shell that is not strict, may fail before its end without notice."""
    return re.search(r"[|;\n&]", _Masked(text.strip()).live) is not None


def check_shell(text: str, shell: bool | str) -> None:
    """Refuse constructs of a shell command that could hide a failure or mean something else in a plain sh.

    Args:
        text: The command, each field replaced by a word.
        shell: True for a plain sh, or `"bash"`.

    Raises:
        SpecError: The message says what to write instead.
    """
    try:
        masked = _Masked(text)
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


def shell_doubts(text: str, shell: bool | str) -> Iterator[str]:
    """Yield what may let a failure of a shell command pass unnoticed, although it may be meant, as sentences.

    Args:
        text: The command, each field replaced by a word.
        shell: True for a plain sh, or `"bash"`.
    """
    live = _Masked(text).live
    if found := _LAX.search(live):
        yield f"{found['what']} lets the command go on after a failure"
    if found := _REPORTED.search(live):
        commands = _KEYWORD.sub("", live[: found.start()].rpartition("\n")[2].rpartition(";")[2])
        if (commands.split() or ["true"])[0] not in _TESTS:
            yield (
                f"with || {found[1]} a failure counts as a success: write || {{ {found[1]} …; exit 1; }}, or leave it "
                "out, because a failure is reported anyway"
            )
    for inner in _NESTED_SHELL.finditer(live):
        quoted = _QUOTED_WORD.match(text, inner.end())
        if quoted and "e" not in inner["flags"] and hides_failures(quoted[2]):
            yield (
                f"{inner['shell']} -c does not end at the first failure, which may pass unnoticed: write its text "
                f"directly, or {inner['shell']} -ec"
            )
    if found := _FIND_EXEC.search(text):
        yield "find -exec … \\; ignores failures: write -exec … {} +, or find … | xargs"
    if shell == "bash" and (found := re.search(r"[<>]\(|\bcoproc\b", live)):
        yield f"the failure of a command in {'coproc' if found[0] == 'coproc' else found[0] + '…)'} is not noticed"
    for found in _SUBSTITUTION.finditer(live):
        if found["command"] not in _HARMLESS and not _ASSIGNED.search(live[: found.start()]):
            yield (
                f"a failure of {found['command']} in $(…) is not noticed, because it is part of another command: write "
                "NAME=$(…) on a line of its own, then $NAME"
            )
            return


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


def _refuse_bash(text: str, masked: _Masked) -> None:
    for pattern, what, instead in _ONLY_BASH:
        if pattern.search(masked.live):
            _refuse(text, what, f'{instead}, or say shell="bash"')
    if _BASH_EXPANSION.search(masked.expanded):
        _refuse(text, "an expansion that only bash has", 'say shell="bash"')
    if found := _BASH_VARIABLE.search(masked.expanded):
        _refuse(text, f"${found[1]}, which only bash sets (a plain sh finds it empty)", 'say shell="bash"')


# -- failures that the shell does not notice ------------------------------------------------------------------------

_PIPE = re.compile(r"(?<![|>])\|(?!\|)")
_BACKGROUND = re.compile(r"(?<![&<>|;])&(?![&>])")
_WAIT_FOR_ONE = re.compile(r"\bwait[ \t]+(?:-n|[^\s;&|)]+)[ \t]*(?=[\s;&|)]|\Z)(?![ \t]*[^\s;&|)])")
_DETACHED = re.compile(r"\bsetsid\s+(?:-\w*f|--fork)|\bscreen\s+(?:-\w+\s+)*-\w*d|\btmux\s+new\S*\s[^;\n]*-d\b")
_LOOP = re.compile(r"\b(?:do|done)\b")
_LOST_SUBSTITUTION = re.compile(_BEGIN + r"(?:export|readonly|local|declare|typeset)\s[^;\n]*?=\"?(?:\$\(|`)")


def _refuse_background(text: str, live: str) -> None:
    """Refuse a background job unless a later `wait` is for it alone: only then does its failure end the command."""
    jobs = [found.end() for found in _BACKGROUND.finditer(live)]
    waits = [found.start() for found in _WAIT_FOR_ONE.finditer(live, jobs[-1])] if jobs else []
    has_one_each = len(waits) >= len(jobs) and not any(_in_loop(live, job) for job in jobs)
    is_waited_for = has_one_each or any(_in_loop(live, wait) for wait in waits)
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
_KEYWORD = re.compile(r"^(?:\s|\b(?:then|do|else)\b|\{\s)*")
_CONDITION = re.compile(r"(?:if|elif|while|until|case|for)\b")
_TESTS = frozenset(
    ("[", "[[", "test", "!", "command", "type", "which", "hash", "grep", "egrep", "fgrep", "cmp", "diff", "true", ":")
)
_CLOSED = re.compile(r"[\s;)}]*(?:(?:fi|esac)\b[\s;)}]*)*")


def _refuse_ignored_failure(text: str, live: str) -> None:
    """Refuse ``a && b`` before another command: if *a* fails, the shell goes on with that command."""
    for found in _LIST.finditer(live):
        commands = _KEYWORD.sub("", found[0])
        if re.match(r"!\s", commands) and "&&" not in commands and "||" not in commands:
            if not _CLOSED.fullmatch(live[found.end() :]):
                _refuse(text, "a command after a ! …, whose result the shell ignores", "write if …; then exit 1; fi")
            continue
        if "&&" not in commands or "||" in commands or _CONDITION.match(commands):
            continue
        firsts = [(command.split() or [""])[0] for command in commands.split("&&")[:-1]]
        rest = live[found.end() :]
        if set(firsts) <= _TESTS or rest.lstrip().startswith(")") or _CLOSED.fullmatch(rest):
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
_FUNCTION = re.compile(
    r"(?:^|[\s;&|(])(?P<word>function[ \t]+)?(?P<name>[A-Za-z_]\w*)[ \t]*(?(word)(?:\(\))?|\(\))\s*(?P<open>[{(])"
)
_SEVERAL = re.compile(r"[;\n]\s*\S")


def _refuse_tested_lists(text: str, live: str) -> None:
    """Refuse several commands whose result is tested: inside, no shell ends at the first failure."""
    for found in _TESTED_END.finditer(live):
        begin = _opening(live, found.start("bracket")) if found["bracket"] else None
        is_loop = found["bracket"] is None
        is_group = begin is not None and not live[: begin + 1].endswith(("$(", "${", "<(", ">(", "=("))
        if is_loop or (is_group and _SEVERAL.search(_inside(live, begin or 0))):
            _refuse_tested(text, "several commands before && or ||")
    for found in _TESTED_BEGIN.finditer(live):
        begin = found.start("bracket") if found["bracket"] else found.start("not")
        if live[begin : begin + 2] != "((" and _SEVERAL.search(_inside(live, begin)):
            _refuse_tested(text, "several commands as a condition")
    for found in _FUNCTION.finditer(live):
        if not _SEVERAL.search(_inside(live, found.start("open"))):
            continue
        name = re.escape(found["name"])
        call = _BEGIN + rf"{name}\b(?!\s*\()"
        in_condition = rf"\b(?:if|elif|while|until)\s+(?:!\s+)?{name}\b|(?:^|[;\n&|(]\s*)!\s+{name}\b"
        if re.search(call + r"[^;&|\n]*(?:&&|\|\|(?!\s*(?:true\b|:(?:\s|$))))", live) or re.search(in_condition, live):
            _refuse_tested(text, f"the function {found['name']} as a condition")


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


def _inside(live: str, opening: int) -> str:
    """Return the text between the bracket at *opening* and the one that closes it, without a last semicolon."""
    depth = 0
    for found in _BRACKETS.finditer(live, opening):
        depth += 1 if found[0] in "({" else -1
        if depth == 0:
            return live[opening + 1 : found.start()].strip().rstrip(";")
    return ""


_TRAP = re.compile(_BEGIN + r"trap\s+(?:--\s+)?")
_QUOTED_WORD = re.compile(r"(['\"])((?:(?!\1).)*)\1", re.DOTALL)


def _refuse_trap(text: str, live: str) -> None:
    """Refuse ``trap 'exit 0' EXIT``, which makes every failure a success."""
    for found in _TRAP.finditer(live):
        action = _QUOTED_WORD.match(text, found.end())
        if action is None or not re.search(r"\bexit\s+0\b", action[2]):
            continue
        if re.match(r"[^;\n]*\b(?:EXIT|ERR|0)\b", live[action.end() :]):
            _refuse(text, "a trap that ends the command with 0, also after a failure", "leave the exit 0 out of it")


# -- failures that may be ignored on purpose ------------------------------------------------------------------------

_LAX = re.compile(_BEGIN + r"(?P<what>set\s+(?:\+\w*e\w*|\+o\s+(?:errexit|pipefail)))")
_REPORTED = re.compile(r"\|\|\s*(echo|printf)\b(?=[^;\n&|]*(?:\s*\Z|[;\n]|\)))")
_NESTED_SHELL = re.compile(_BEGIN + r"(?:\S*/)?(?P<shell>(?:ba|da|k|z)?sh)\s+(?P<flags>(?:-\w+\s+)*-\w*c)\s+")
_FIND_EXEC = re.compile(r"\bfind\s[^\n|]*-(?:exec|execdir|ok)\s[^\n|]*(?:\\;|';'|\";\")")
_SUBSTITUTION = re.compile(r"(?:\$\(|(?<!\\)`)\s*(?P<command>[\w./-]+)")
_ASSIGNED = re.compile(r"(?:^|[\s;&|(])\w+\+?=[^\s]*$|(?:^|[\s;&|(])(?:\[\[?|test)\s[^;\n]*$")
#: commands that do not fail, or whose failure shows
_HARMLESS = frozenset(
    ("seq", "date", "nproc", "basename", "dirname", "pwd", "echo", "printf", "expr", "whoami", "hostname", "id",
     "uname", "mktemp", "true", "which", "command", "jobs")
)  # fmt: skip

# -- live syntax ----------------------------------------------------------------------------------------------------


class _Masked:
    """A shell command without its literal text.

    Attributes:
        live: The command, characters that mean nothing to the shell replaced by ``_``: in quotes, after a backslash,
            in comments, here-documents, arithmetic and ``${…}``.
        expanded: The command, only those replaced in which a shell fills in no variable.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._live, self._expanded = list(text), list(text)
        self._documents: list[tuple[str, bool]] = []
        self._at = 0
        while self._at < len(text):
            self._code("")
            self._at += 1  # a closing parenthesis that none opened, as in a case
        self.live, self.expanded = "".join(self._live), "".join(self._expanded)

    def _hide(self, begin: int, end: int, *, literal: bool) -> None:
        end = min(end, len(self._text))
        self._live[begin:end] = "_" * (end - begin)
        if literal:
            self._expanded[begin:end] = "_" * (end - begin)

    def _code(self, closing: str) -> None:
        """Read commands up to *closing*, a parenthesis or backquote that the caller opened."""
        text = self._text
        while self._at < len(text):
            char = text[self._at]
            if char == closing or char == ")":
                return
            if char == "(":
                self._nested(1, ")")
            elif char == "`":
                self._nested(1, "`")
            elif char == "\n" and self._documents:
                self._here_documents()
            elif char == "#" and (self._at == 0 or text[self._at - 1] in " \t\n;&|("):
                self._literal(re.compile(r"#[^\n]*"), 0)
            elif char == "'":
                self._literal(re.compile(r"'[^']*'?"), 1)
            elif char == '"':
                self._double_quotes()
            else:
                self._piece()

    def _nested(self, opening: int, closing: str) -> None:
        self._at += opening
        self._code(closing)
        self._at += 1

    def _literal(self, pattern: re.Pattern[str], edge: int) -> None:
        found = pattern.match(self._text, self._at)
        assert found is not None
        self._hide(found.start() + edge, max(found.end() - edge, found.start() + edge), literal=True)
        self._at = found.end()

    def _piece(self) -> None:
        """Read one construct that means the same in and outside double quotes, or one character."""
        text, at = self._text, self._at
        if text[at] == "\\":
            self._hide(at, at + 2, literal=True)
            self._at += 2
        elif found := _ARITHMETIC.match(text, at):
            self._hide(at + 1, found.end(), literal=False)
            self._at = found.end()
        elif text.startswith("$(", at):
            self._nested(2, ")")
        elif found := _EXPANSION.match(text, at):
            self._hide(at + 1, found.end(), literal=False)
            self._at = found.end()
        elif found := _HERE_DOCUMENT.match(text, at):
            self._documents.append((found["word"], bool(found["tabs"])))
            self._hide(at + 2, found.end(), literal=True)
            self._at = found.end()
        else:
            self._at += 1

    def _double_quotes(self) -> None:
        self._at += 1
        while self._at < len(self._text) and self._text[self._at] != '"':
            begin = self._at
            if self._text[begin] == "`":
                self._nested(1, "`")
            elif self._text.startswith("<<", begin):
                self._hide(begin, begin + 2, literal=False)
                self._at += 2
            else:
                self._piece()
                if self._at == begin + 1:
                    self._hide(begin, self._at, literal=False)
        self._at += 1

    def _here_documents(self) -> None:
        """Hide the documents that begin on the next line."""
        begin = end = self._at + 1
        for word, tabs in self._documents:
            while end < len(self._text):
                line, newline, _ = self._text[end:].partition("\n")
                end += len(line) + len(newline)
                if (line.lstrip("\t") if tabs else line) == word:
                    break
        self._documents.clear()
        self._hide(begin, end, literal=True)
        if end > begin and self._text[end - 1] == "\n":
            self._live[end - 1] = "\n"
        self._at = max(end, begin)


_ARITHMETIC = re.compile(r"\$\(\((?:[^()]|\([^()]*\))*\)\)")
_EXPANSION = re.compile(r"\$\{[^{}]*\}")
_HERE_DOCUMENT = re.compile(r"<<(?!<)(?P<tabs>-?)[ \t]*\\?['\"]?(?P<word>[^\s'\";&|<>()]+)['\"]?")
