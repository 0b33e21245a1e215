"""Encode a command and its environment so that the server passes them on unchanged.

The service pastes ``cmd``, ``args`` and ``env`` into a YAML template without escaping anything: blanks split, quotes
break, backslashes and whole variables vanish. Only text of a small alphabet arrives unchanged; all other text is sent
in base64 and decoded by the container's own shell.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

import attrs

from canfar_batch.errors import SpecError
from canfar_batch.payload.receipts import mark
from canfar_batch.payload.wrapper import BODY, BUNDLE, EXIT_DECODE, EXIT_WORKDIR, FUNCTIONS, RUN

__all__ = [
    "EXIT_DECODE",
    "EXIT_WORKDIR",
    "Payload",
    "Surroundings",
    "Task",
    "bundle_script",
    "encode_bundle",
    "encode_exec",
    "encode_file",
    "encode_plain",
    "encode_wrapped",
    "is_plain",
    "most_in_script",
]

Pairs: TypeAlias = "Mapping[str, str] | Iterable[tuple[str, str]]"

#: Limits in bytes of one word of `args`, and of all: Linux takes 128 KiB in one argument, Kubernetes 1.5 MiB in one
#: object (skaha-api §2.4).
MOST_IN_CHUNK = 96 * 1024
MOST_IN_ALL = 1024 * 1024
MOST_IN_ARGUMENT = 128 * 1024 - 1  #: Linux, MAX_ARG_STRLEN, without the NUL at the end


@attrs.frozen
class Payload:
    """The three parameters of a create request for the command; None is not sent."""

    cmd: str
    args: str | None = None
    env: tuple[tuple[str, str], ...] = ()


# -- plain: text that the server passes on unchanged ------------------------------------------------------------------

_PLAIN = re.compile(r"[A-Za-z0-9_@%+=:,./-]+")
#: Words that a YAML reader turns into a boolean or a number.
_RETYPED = re.compile(r"[yYnN]|[-+]?0[oO].*|[-+]?0[XB].*|[-+.]*[0-9].*_.*|[-+][0_].*")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FILE_NAME = re.compile(r"[A-Za-z0-9_%][A-Za-z0-9._%~-]*")
_RENAMED = re.compile(
    r"yes|no|on|off|true|false|null|y|n", re.IGNORECASE
)  #: names that a YAML reader turns into another type
_SERVERS_OWN = frozenset({"skaha_hostname", "skaha_username", "skaha_sessionid", "HOME", "PWD", "OMP_NUM_THREADS"})


def is_plain(argv: Sequence[str], env: Pairs = ()) -> bool:
    """Return whether the server provably passes *argv* and *env* on unchanged."""
    return all(map(_is_plain_word, argv)) and all(
        _NAME.fullmatch(name)
        and not _RENAMED.fullmatch(name)
        and name not in _SERVERS_OWN
        and "=" not in value
        and _is_plain_word(value)
        for name, value in _pairs(env)
    )


def encode_plain(argv: Sequence[str], env: Pairs = ()) -> Payload:
    """Encode *argv* and *env* as plain text, which is readable in the container's description.

    Raises:
        SpecError: The server would change them.
    """
    _check(argv, _pairs(env))
    if not is_plain(argv, env):
        raise SpecError("this command or environment is not plain enough to be sent unencoded")
    size = sum(len(text) + 1 for text in (*argv, *(part for pair in _pairs(env) for part in pair)))
    if size > MOST_IN_ALL:
        raise _too_large(size, MOST_IN_ALL)
    return Payload(argv[0], " ".join(argv[1:]) or None, _pairs(env))


def _is_plain_word(word: str) -> bool:
    return _PLAIN.fullmatch(word) is not None and _RETYPED.fullmatch(word) is None


# -- base64: everything else ----------------------------------------------------------------------------------------

# `eval "$(printf %s "$@" | base64 -d)"`, itself in base64. OUTER has no blank but tabs, no quote, dollar or backslash,
# so the server passes it on unchanged. It exits with an error unless the decoded text exits itself, so that text which
# cannot be decoded never looks like a success.
_INNER = base64.b64encode(b'eval "$(printf %s "$@" | base64 -d)"').decode()
OUTER = f"{{\teval\t`echo\t{_INNER}|base64\t-d`;exit\t{EXIT_DECODE};}}"

#: Variables that have a meaning in shells, which refuse, ignore or change some of their values.
_SHELLS_OWN = re.compile(
    r"cb_.*|_|BASH.*|COMP_.*|DIRSTACK|EPOCH.*|EUID|FUNCNAME|FUNCNEST|GLOBIGNORE|GROUPS|HIST.*|IFS|IGNOREEOF|LANG|LC_.*"
    r"|LINENO|LINES|COLUMNS|MAIL.*|MAPFILE|OLDPWD|OPTARG|OPTERR|OPTIND|PIPESTATUS|POSIXLY_CORRECT|PPID|PS[0-9]|PWD"
    r"|RANDOM|READLINE.*|REPLY|SECONDS|SHELLOPTS|SHLVL|SRANDOM|TEXTDOMAIN.*|TIMEFORMAT|TMOUT|UID|KSH_VERSION|ENV|ERRNO"
)


def encode_exec(argv: Sequence[str], env: Pairs = (), *, workdir: str | None = None) -> Payload:
    """Encode *argv* as the container's first process, without wrapper and receipts.

    Args:
        argv: The program and its arguments: any bytes but NUL, as Python's file system encoding has them.
        env: Environment variables, whose values may hold the same bytes.
        workdir: Where to run; None for the directory in which the container starts. If it cannot be entered, the exit
            code is 96.

    Raises:
        SpecError: Too large, or no argv.
    """
    pairs = _pairs(env)
    _check(argv, pairs)
    if workdir is None and is_plain(argv, pairs):
        return encode_plain(argv, pairs)
    enter = [] if workdir is None else [f"{_cd(workdir)} || exit {EXIT_WORKDIR}"]
    prefix = "env " if _through_env(pairs) else ""
    return _carried("\n".join(_rooted([*enter, *_exports(pairs), f"exec {prefix}{_words(argv, pairs)}"])))


def encode_wrapped(
    argv: Sequence[str],
    env: Pairs = (),
    *,
    launch_name: str,
    key: str,
    file: str | None = None,
    attempt: int = 1,
    batch: str | None = None,
    workdir: str | None = None,
    driver_workdir: str | None = None,
    shared: bool = False,
    outputs: Sequence[str] = (),
    timeout: float | None = None,
    grace: float = 20.0,
    home: str | None = None,
    token: str | None = None,
    files: Mapping[str, bytes] | None = None,
) -> Payload:
    """Encode *argv* with the wrapper around it, which reports how it began and ended.

    Args:
        argv: The program and its arguments: any bytes but NUL, as Python's file system encoding has them.
        env: Environment variables, whose values may hold the same bytes.
        launch_name: The name of this launch; it marks the receipt's lines in the log.
        key: The job's key, and CANFAR_BATCH_KEY.
        file: The key as a file name, which `fields.keys.file_name` makes; by default *key* itself.
        attempt: Which launch of the job this is, from 1; CANFAR_BATCH_ATTEMPT.
        batch: The batch's name, CANFAR_BATCH_NAME; None outside one.
        workdir: The job's own working directory. If it cannot be entered, the command is not run, the exit code is 96
            and the receipt's trouble is `workdir`. A relative one is relative to the directory in which the command
            would run without it.
        driver_workdir: The directory of the driver, in which the command runs if the container sees the same storage:
            if it finds *token* in *home*, or *shared* is true. Otherwise the command runs in the container's home.
        shared: Whether the container is known to see the driver's storage.
        outputs: Patterns, relative to the working directory, of files to look for after the command ended.
        timeout: Seconds after which the command gets SIGTERM, and *grace* seconds later SIGKILL.
        grace: Seconds between SIGTERM and SIGKILL, also if the container itself gets SIGTERM.
        home: The batch's directory; receipts are written below it if its file `token` holds *token*.
        token: One line without blanks.
        files: For the call of a function: files that the command finds in `$CANFAR_BATCH_FILES` if the container does
            not see *home*, which has them otherwise; it then leaves its outcome in `$CANFAR_BATCH_RESULT`.

    Raises:
        SpecError: Too large, or no argv.
    """
    task = Task(
        argv=tuple(argv), env=_pairs(env), key=key, file=key if file is None else file, attempt=attempt,
        workdir=workdir, outputs=tuple(outputs), timeout=timeout, files=files,
    )  # fmt: skip
    around = Surroundings(
        batch=batch, driver_workdir=driver_workdir, shared=shared, grace=grace, home=home, token=token
    )  # fmt: skip
    lines = [*around.settings(), *task.script(launch_name, "", batch)]
    return _carried("\n".join([*_rooted(lines), BODY]))


@attrs.frozen(kw_only=True)
class Task:
    """A job's command, as the wrapper runs it; the arguments of `encode_wrapped` say what each part means."""

    argv: tuple[str, ...]
    key: str
    file: str
    env: tuple[tuple[str, str], ...] = ()
    attempt: int = 1
    workdir: str | None = None
    outputs: tuple[str, ...] = ()
    timeout: float | None = None
    files: Mapping[str, bytes] | None = attrs.field(default=None, repr=False)

    def script(self, name: str, task: str, batch: str | None) -> list[str]:
        """Return the lines that define the variables and functions for the wrapper.

        Args:
            name: The name that marks the receipt's lines in the log.
            task: The task's number in its bundle; "" outside one.
            batch: The batch's name.

        Raises:
            SpecError: An argument or variable is too large, or there is no argv.
        """
        _check(self.argv, self.env)
        if not _FILE_NAME.fullmatch(self.file):
            raise SpecError(
                f"{self.file!r} cannot be the name of a receipt's file; fields.keys.file_name makes one of a key"
            )
        ours = [("CANFAR_BATCH_KEY", self.key), ("CANFAR_BATCH_ATTEMPT", str(self.attempt))]
        if batch is not None:
            ours.append(("CANFAR_BATCH_NAME", batch))
        # scripts of the platform's guide read this name, but the platform sets another; a value of the user overrides
        session = '[ -z "${skaha_sessionid-}" ] || export SKAHA_SESSION_ID="$skaha_sessionid"'
        through_env = _through_env(self.env)
        settings = {
            "cb_name": name,
            "cb_task": task,
            "cb_key": self.file,
            "cb_attempt": str(self.attempt),
            "cb_timeout": "" if self.timeout is None else _sleepable(self.timeout),
            "cb_outs": "1" if self.outputs else "",
            "cb_via": "env" if through_env else "",
            # env takes a program with a = in its name for a variable
            "cb_nice": " nice -n 0" if "=" in self.argv[0] and not through_env else "",
        }
        enter = [] if self.workdir is None else [_enter(self.workdir)]
        declared = [f"cb_seek {_quoted(output)} {_shell_pattern(output)}" for output in self.outputs]
        files = [] if self.files is None else _carried_files(self.files)
        work = [session, *_exports([*self.env, *ours]), *files, f"exec $cb_via {_words(self.argv, self.env)}"]
        functions = {"cb_enter": enter, "cb_declared": declared, "cb_work": work}
        return [*_settings(settings), *(line for name in functions for line in _function(name, functions[name]))]


@attrs.frozen(kw_only=True)
class Surroundings:
    """What the tasks of one container have in common; the arguments of `encode_wrapped` say what each part means."""

    batch: str | None = None
    driver_workdir: str | None = None
    shared: bool = False
    grace: float = 20.0
    home: str | None = None
    is_far: bool = False  #: whether the driver reads *home* over the network, so that logs do not belong there
    token: str | None = attrs.field(default=None, repr=False)

    def settings(self) -> list[str]:
        """Return the lines that define the variables for the wrapper."""
        return _settings(
            {
                "cb_home": self.home or "",
                "cb_far": "1" if self.is_far else "",
                "cb_token": self.token or "",
                "cb_driver": self.driver_workdir or "",
                "cb_shared": "1" if self.shared else "",
                "cb_grace": _sleepable(self.grace),
                "cb_nl": "\n",
            }
        )


def bundle_script(
    tasks: Sequence[Task], around: Surroundings, *, launch_name: str, parallel: int = 1, look: float = 2.0
) -> str:
    """Return the shell text that runs *tasks* in one container, each under the wrapper.

    Args:
        tasks: The tasks, in the order in which they begin; their numbers count from 1.
        around: What they have in common.
        launch_name: The name of this launch. `receipts.mark` makes of it the name that marks a task's receipts.
        parallel: How many run at a time.
        look: Seconds between two looks for a request to stop a task.

    Raises:
        SpecError: A task cannot be sent.
    """
    lines = []
    for number, task in enumerate(tasks, 1):
        lines += _function(f"cb_task_{number}", task.script(mark(launch_name, number), str(number), around.batch))
    settings = {
        "cb_bundle": launch_name,
        "cb_task": "",
        "cb_count": str(len(tasks)),
        "cb_parallel": str(min(parallel, len(tasks))),
        "cb_look": _sleepable(look),
    }
    head = _rooted([*around.settings(), *_settings(settings), *lines])
    return "\n".join([*head, FUNCTIONS, *_function("cb_run", [RUN]), BUNDLE])


def encode_bundle(script: str) -> Payload:
    """Encode the text of `bundle_script`.

    Raises:
        SpecError: It is too large.
    """
    return _carried(script)


def encode_file(path: str) -> Payload:
    """Encode a command that runs the text of `bundle_script` from a file that the container sees."""
    message = _quoted(f"canfar_batch: the commands in {path} cannot be read in the container")
    lines = [
        f"cb_file={_placed(path)}",
        'if [ -r "$cb_file" ]; then . "$cb_file"; fi',
        f"printf '%s\\n' {message} >&2",
        f"exit {EXIT_DECODE}",
    ]
    return _carried("\n".join(_rooted(lines)))


def most_in_script() -> int:
    """Return how many bytes the text of a script may have, to be sent with a launch."""
    return (MOST_IN_ALL - 1024) * 3 // 4  # for OUTER and the blanks between the words


def _settings(values: Mapping[str, str]) -> list[str]:
    return [f"{name}={_placed(value) if name == 'cb_home' else _quoted(value)}" for name, value in values.items()]


#: how the script writes the beginning of `/arc/…`: on the local platform another directory stands for it
_ROOT = '"$cb_root"'
_ROOT_LINES = ["cb_root=/arc", "[ -d /arc ] || cb_root=${CANFAR_BATCH_ARC:-/arc}"]


def _rooted(lines: Sequence[str]) -> list[str]:
    """Return the lines of a script, after those that find what stands for `/arc` if they need it."""
    return [*(_ROOT_LINES if any(_ROOT in line for line in lines) else []), *lines]


def _placed(text: str) -> str:
    """Return a text quoted for the script; if it is a path below `/arc`, the script finds its beginning."""
    return f"{_ROOT}{_quoted(text[4:])}" if text.startswith("/arc/") else _quoted(text)


def _pairs(env: Pairs) -> tuple[tuple[str, str], ...]:
    return tuple(env.items() if isinstance(env, Mapping) else env)


def _check(argv: Sequence[str], pairs: Sequence[tuple[str, str]]) -> None:
    """Refuse a command or environment with which no container could be started."""
    if not argv or not argv[0] or argv[0].startswith("-"):
        raise SpecError(f"the command begins with {argv[0]!r}; a program comes first" if argv else "no command to run")
    for name, _ in pairs:
        if not _NAME.fullmatch(name):
            raise SpecError(f"{name!r} cannot name an environment variable")
    texts = [(f"argument {place}", word) for place, word in enumerate(argv)]
    texts += [(f"the variable {name}", f"{name}={value}") for name, value in pairs]
    for what, text in texts:
        if "\0" in text:
            raise SpecError(f"{what} contains a NUL, which arguments and variables cannot")
        if len(_bytes(text, what)) > MOST_IN_ARGUMENT:
            raise SpecError(
                f"{what} is {len(_bytes(text, what)):,} bytes long; Linux takes less than 128 KiB in one: "
                f"write it to a file that the job can read, and pass the file's name"
            )


def _bytes(text: str, what: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise SpecError(f"{what} has a character that cannot be encoded: {error}") from error


def _quoted(text: str) -> str:
    return "'" + text.replace("'", r"'\''") + "'"


def _through_env(pairs: Iterable[tuple[str, str]]) -> bool:
    return any(_SHELLS_OWN.fullmatch(name) for name, _ in pairs)


def _exports(pairs: Iterable[tuple[str, str]]) -> list[str]:
    return [f"export {name}={_placed(value)}" for name, value in pairs if not _SHELLS_OWN.fullmatch(name)]


def _carried_files(files: Mapping[str, bytes]) -> list[str]:
    """Return the lines that name the folder of a function's files: in the home, or a new one that gets *files*."""
    unpack = [
        f'printf %s {base64.b64encode(content).decode()} | base64 -d >"$CANFAR_BATCH_FILES/{name}"'
        for name, content in files.items()
    ]
    return [
        "CANFAR_BATCH_LAUNCH=$cb_name CANFAR_BATCH_FILES=$cb_home/functions CANFAR_BATCH_RESULT=",
        'if [ -n "$cb_ours" ]; then CANFAR_BATCH_RESULT=$cb_home/results/$cb_key.$cb_attempt',
        "elif ! CANFAR_BATCH_FILES=$(mktemp -d 2>/dev/null); then",
        'CANFAR_BATCH_FILES=${TMPDIR:-/tmp}/$cb_name; mkdir -m 700 "$CANFAR_BATCH_FILES"; fi',
        f'[ -n "$cb_ours" ] || {{ {"; ".join(unpack) or ":"}; }}',
        "export CANFAR_BATCH_LAUNCH CANFAR_BATCH_FILES CANFAR_BATCH_RESULT",
    ]


def _words(argv: Sequence[str], pairs: Iterable[tuple[str, str]]) -> str:
    """Return the command, after the variables that env has to set because the shell cannot."""
    words = [_quoted(f"{name}={value}") for name, value in pairs if _SHELLS_OWN.fullmatch(name)]
    if words and "=" in argv[0]:
        words.append("nice -n 0")  # env takes such a program for one more variable
    return " ".join([*words, *map(_placed, argv)])


def _function(name: str, lines: Sequence[str]) -> list[str]:
    return [f"{name}() {{", *(lines or [":"]), "}"]


def _cd(workdir: str) -> str:
    # as a path, so that `-` and $CDPATH have no meaning
    return f"cd {_placed(workdir if workdir.startswith('/') else f'./{workdir}')}"


def _enter(workdir: str) -> str:
    message = _quoted(f"canfar_batch: cannot enter the working directory {workdir}")
    return (
        f"if {_cd(workdir)} 2>/dev/null; then cb_where=own; else cb_trouble=workdir; printf '%s\\n' {message} >&2; fi"
    )


def _sleepable(seconds: float) -> str:
    """Return *seconds* as every `sleep` takes them; that of busybox or POSIX may take whole numbers only."""
    if seconds >= 10 or float(seconds).is_integer():
        return str(math.ceil(seconds))
    return f"{max(seconds, 0.001):.3f}"


_GLOB = re.compile(r"(?P<any>[*?])|\[(?P<negated>!?)(?P<set>\]?[^\]]*)\]|(?P<plain>[^*?[]+|\[)", re.DOTALL)


def _shell_pattern(pattern: str) -> str:
    """Return a pattern of Python's `glob` as a word that a shell expands to the same files: only wildcards unquoted."""
    pieces: list[str] = []
    for found in _GLOB.finditer(pattern):
        if found["any"]:
            pieces.append(found["any"])
        elif found["plain"] or not found["set"]:
            pieces.append(_quoted(found[0]))
        elif not found["negated"] and len(found["set"]) == 1:
            pieces.append(_quoted(found["set"]))
        else:
            inside = "".join(char if char == "-" else _quoted(char) for char in found["set"])
            pieces.append(f"[{found['negated']}{inside}]")
    return "".join(pieces)


def _carried(script: str) -> Payload:
    """Return *script* as words that the server passes on unchanged."""
    # in braces, so that a script of which a part is missing is a syntax error and runs nothing
    raw = _bytes(f"{{ {script}\n}}", "the command")
    text = base64.b64encode(raw + b" " * (-len(raw) % 3)).decode()
    args = " ".join(["-c", OUTER, "job", *_chunks(text)])
    if len(args) > MOST_IN_ALL:
        raise _too_large(len(raw), MOST_IN_ALL * 3 // 4)
    return Payload("/bin/sh", args)


def _too_large(size: int, most: int) -> SpecError:
    return SpecError(
        f"the command and its environment are {size:,} bytes, more than a container's description can hold ({most:,}): "
        f"write them to a file that the job can read, and pass the file's name"
    )


def _chunks(text: str) -> Iterator[str]:
    """Cut *text* into words, none of which a YAML reader takes for a number or a boolean."""
    at = 0
    while at < len(text):
        end = min(at + MOST_IN_CHUNK, len(text))
        while end < len(text) and _RETYPED.fullmatch(text[end : end + MOST_IN_CHUNK]):
            end -= 1
        yield text[at:end]
        at = end
