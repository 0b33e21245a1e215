"""JobSpec: what to run, checked when it is written; and `Filled`, the same with one job's fields filled in."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import attrs

from canfar_batch.errors import SpecError
from canfar_batch.fields import converters
from canfar_batch.fields.arguments import Arguments
from canfar_batch.fields.environment import (
    Environment,
    Secret,
    looks_secret,
    masked,
    shown_value,
    unfilled_variable,
    value_from_json,
)
from canfar_batch.fields.image_names import full_image
from canfar_batch.fields.keys import check_key, job_key, readable_key
from canfar_batch.fields.patterns import literal, literal_path
from canfar_batch.fields.shell import check_shell, shell_argv, shown_command
from canfar_batch.fields.shell_doubts import argv_doubts, shell_doubts
from canfar_batch.fields.templates import Template, shell_quoted
from canfar_batch.fields.values import plain_fields
from canfar_batch.fields.words import split_words
from canfar_batch.payload.calls import shown_call
from canfar_batch.text import did_you_mean, naming_arguments

__all__ = [
    "Environment",
    "Filled",
    "JobSpec",
    "Secret",
    "check_key",
    "full_image",
    "job_key",
    "literal",
    "literal_path",
    "looks_secret",
    "meant",
    "plain_fields",
    "readable_key",
    "shown_value",
    "value_from_json",
]


Expectation: TypeAlias = "float | Callable[..., float] | None"

_SHELLS = ("sh", "bash", "dash", "ksh", "zsh")
_OPERATORS = frozenset((">", ">>", "<", "|", "||", "&&", "&", "2>&1", "&>", "2>"))  #: of a shell
_WITH_OPERATORS = ("expr", "test", "[")  #: programs that have such words as arguments


@attrs.frozen
class Filled:
    """A spec with one job's fields filled in: exactly what runs."""

    argv: tuple[str, ...]
    env: tuple[tuple[str, str | Secret], ...] = attrs.field(default=(), repr=lambda pairs: repr(masked(pairs)))
    name: str | None = None
    workdir: str | None = None
    outputs: tuple[str, ...] = ()  #: patterns; wildcards in a field's value match only themselves

    @property
    def secrets(self) -> tuple[Secret, ...]:
        """The values of the environment that are read at the launch."""
        return tuple(value for _, value in self.env if isinstance(value, Secret))

    @property
    def command(self) -> str:
        """The command as one line for people, quoted for a shell."""
        return shown_call(self.argv) or shown_command(self.argv)

    def environment(self) -> tuple[tuple[str, str], ...]:
        """Return the variables with their values, secret ones included.

        Raises:
            SpecError: A secret's variable is not set here.
        """
        return tuple((name, value.read() if isinstance(value, Secret) else value) for name, value in self.env)


@attrs.frozen
class _Templates:
    """The templates of a spec, read once."""

    argv: tuple[Template, ...]  #: for a shell: only the command
    env: tuple[tuple[str, Template | Secret], ...]
    name: Template | None
    workdir: Template | None
    outputs: tuple[Template, ...]


@attrs.frozen(repr=False, slots=False)
class JobSpec:
    """What to run: a command, in an image, with resources. One spec serves many jobs, each with its own fields.

    ```python
    calib = cb.JobSpec(
        "python calib.py {path} cat/{path.stem}.cat",
        image="skaha/astroml:latest", cores=2, ram=8, outputs=["cat/{path.stem}.cat"], timeout=3600,
    )
    ```

    Args:
        cmd: The command. A string is split into words by the shell's rules *before* its fields are filled, so that a
            blank in a file name cannot split an argument; a list of words is taken unchanged. Syntax that needs a shell
            (a bare ``> | && * $X``) is refused unless *shell* is true.
        image: The container image; a short name such as `skaha/astroml` is completed by `full_image`.
        name: The job's name in the portal; by default it is made of the batch's name and the job's key.
        cores: Whole cores; None leaves it to the platform.
        ram: Whole GiB; None leaves it to the platform.
        gpus: GPUs; None or 0 for none.
        env: Environment variables. Numbers and paths become text. Give secrets as a `Secret`.
        shell: True runs the string *cmd* by ``/bin/sh``, `"bash"` by bash; every field is quoted for the shell. The
            first command that fails ends the job (``set -e``), also in a pipeline (``pipefail``). Constructs that
            would hide a failure, or that only bash understands, are refused with what to write instead.
        workdir: Where the command runs; by default the driver's working directory if containers see it, else the
            container's home.
        outputs: The files that the command writes, as paths relative to *workdir*, or patterns with ``* ? […]``. A job
            that did not write one of them did not succeed. Two jobs of a batch cannot have the same output.
        timeout: Seconds that the command may run.
        pending_timeout: Seconds that the job may wait to be started.
        expect: Seconds that the command is expected to run, or a function of a job's fields that returns them, such as
            `lambda path: path.stat().st_size / 1e6`. It orders launches and fills bundles, and stops nothing; None for
            what finished jobs took.
        receipt: Run the command under the wrapper that reports how it ended. Without it, failures are inferred, and
            *timeout* and *outputs* cannot be used.
        function: The name of the function that is called, with its digest; `Function` sets it.

    Words, values of *env*, *name*, *workdir* and *outputs* are templates: `fields.templates` describes a ``{field}``.
    ``{key}`` and ``{index}`` always exist in a batch; ``{{`` and ``}}`` stand for single braces.

    Raises:
        SpecError: An argument makes no sense; the message says which, and what to write.
    """

    cmd: str | tuple[str, ...] = attrs.field(converter=converters.command)
    image: str = attrs.field(kw_only=True, converter=converters.image)
    name: str | None = attrs.field(default=None, kw_only=True, converter=converters.job_name)
    cores: int | None = attrs.field(default=None, kw_only=True, converter=converters.cores)
    ram: int | None = attrs.field(default=None, kw_only=True, converter=converters.ram)
    gpus: int | None = attrs.field(default=None, kw_only=True, converter=converters.gpus)
    env: Mapping[str, str | Secret] = attrs.field(
        default=Environment({}), kw_only=True, converter=converters.environment
    )
    shell: bool | str = attrs.field(default=False, kw_only=True, converter=converters.shell)
    workdir: str | None = attrs.field(default=None, kw_only=True, converter=converters.directory)
    outputs: tuple[str, ...] = attrs.field(default=(), kw_only=True, converter=converters.outputs)
    timeout: float | None = attrs.field(default=None, kw_only=True, converter=converters.timeout)
    pending_timeout: float | None = attrs.field(default=None, kw_only=True, converter=converters.pending_timeout)
    expect: Expectation = attrs.field(default=None, kw_only=True, eq=False, converter=converters.expectation)
    receipt: bool = attrs.field(default=True, kw_only=True, validator=converters.yes_or_no)
    function: str | None = attrs.field(default=None, kw_only=True)

    def __attrs_post_init__(self) -> None:
        if self.shell and not isinstance(self.cmd, str):
            raise SpecError(f"shell={self.shell!r} takes cmd as one string; a list of words needs no shell")
        if self.timeout is not None and not self.receipt:
            raise SpecError("timeout is enforced by the wrapper, which receipt=False leaves out; give only one of them")
        if self.outputs and not self.receipt:
            raise SpecError(
                "outputs are looked for by the wrapper, which receipt=False leaves out; give only one of them "
                "(a collector may name files, too: Files('cat/*.cat'))"
            )
        if self.shell:
            check_shell(self._shell_text, self.shell)
        else:
            _check_program(self.words[0], self.cmd)

    @functools.cached_property
    def words(self) -> tuple[str, ...]:
        """The command as words, with fields not filled; for a shell, the command as one word."""
        if isinstance(self.cmd, tuple):
            return self.cmd
        return (self.cmd,) if self.shell else split_words(self.cmd)

    @functools.cached_property
    def _templates(self) -> _Templates:
        read = Template.read
        return _Templates(
            argv=tuple(map(Template.read_shell if self.shell else read, self.words)),
            env=tuple((name, value if isinstance(value, Secret) else read(value)) for name, value in self.env.items()),
            name=None if self.name is None else read(self.name),
            workdir=None if self.workdir is None else read(self.workdir),
            outputs=tuple(map(read, self.outputs)),
        )

    @functools.cached_property
    def field_names(self) -> tuple[str, ...]:
        """The names of the fields, in the order in which the command and the other templates first mention them."""
        templates = self._templates
        optional = (templates.name, templates.workdir)
        read = [
            *templates.argv,
            *(value for _, value in templates.env if isinstance(value, Template)),
            *(template for template in optional if template is not None),
            *templates.outputs,
        ]
        return tuple(dict.fromkeys(field.name for template in read for field in template.fields))

    @property
    def _shell_text(self) -> str:
        """The command for a shell, each field replaced by a word."""
        (template,) = self._templates.argv
        return "".join(part if isinstance(part, str) else "_" for part in template.parts)

    @property
    def secrets(self) -> tuple[Secret, ...]:
        """The values of the environment that are read at the launch."""
        return tuple(value for value in self.env.values() if isinstance(value, Secret))

    @property
    def doubts(self) -> tuple[str, ...]:
        """Parts of this spec that probably do not mean what they look like, in words; empty if there are none."""
        texts = [
            (f"the value of {name} in env is {shown_value(name, value)!r}", value)
            for name, value in self.env.items()
            if isinstance(value, str)
        ]
        ends = [f"{place}, which ends in a line break" for place, text in texts if text[-1:] in ("\r", "\n")]
        if self.function is not None:
            return tuple(ends)
        by_shell = not self.shell and self.words[0].rpartition("/")[2] in _SHELLS
        if isinstance(self.cmd, tuple) and not by_shell:
            texts += [(f"word {place} of cmd is {word!r}", word) for place, word in enumerate(self.cmd)]
        doubts = ends + [
            f"{place}, and no shell fills in {variable}: write its value, or set it in the command with shell=True"
            for place, text in texts
            if (variable := unfilled_variable(text))
        ]
        if isinstance(self.cmd, tuple):
            doubts += [
                f"word {place} of cmd is {word!r}, which only a shell understands: give cmd as one string, with "
                "shell=True"
                for place, word in enumerate(self.cmd)
                if word in _OPERATORS and self.cmd[0].rpartition("/")[2] not in _WITH_OPERATORS
            ]
        if self.shell:
            doubts += shell_doubts(self._shell_text, self.shell)
        else:
            doubts += argv_doubts(self.words)
        return tuple(doubts)

    def fill(
        self, fields: Mapping[str, Any] | None = None, *, key: str | None = None, index: int | None = None
    ) -> Filled:
        """Fill the templates with one job's fields.

        Args:
            fields: The job's fields.
            key: The job's key, which is ``{key}`` unless *fields* has another; None outside a batch.
            index: The job's place in the plan, from 0, which is ``{index}`` unless *fields* has another.

        Raises:
            SpecError: A template names a field that does not exist, or one whose value is missing.
        """
        values = _values(fields or {}, key, index)
        templates = self._templates
        written = shell_quoted if self.shell else None
        arguments = fields.words if isinstance(fields, Arguments) else ()
        return _checked(
            self._argv(tuple([template.fill(values, written) for template in templates.argv])) + arguments,
            tuple([(name, part if isinstance(part, Secret) else part.fill(values)) for name, part in templates.env]),
            None if templates.name is None else templates.name.fill(values),
            None if templates.workdir is None else templates.workdir.fill(values),
            tuple([template.fill(values, literal) for template in templates.outputs]),
        )

    def expected(self, fields: Mapping[str, Any]) -> float | None:
        """Return the seconds that the job with these *fields* is expected to run; None if unknown.

        Raises:
            SpecError: The function *expect* failed, or did not return a number of seconds.
        """
        if not callable(self.expect):
            return self.expect
        try:
            seconds = self.expect(**self._arguments(fields))
        except Exception as error:
            raise SpecError(f"the function expect={self.expect!r} failed: {type(error).__name__}: {error}") from error
        found: float | None = converters.expectation(seconds)
        if callable(found):
            raise SpecError(f"the function expect={self.expect!r} returned {seconds!r}, not a number of seconds")
        return found

    def _arguments(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Return those of *fields* that the function *expect* takes, by its parameters' names."""
        assert callable(self.expect)
        parameters = inspect.signature(self.expect).parameters
        if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values()):
            return dict(fields)
        return {name: fields[name] for name in parameters if name in fields}

    def filled_name(
        self, fields: Mapping[str, Any] | None = None, *, key: str | None = None, index: int | None = None
    ) -> str | None:
        """Return only the name, filled as by `fill`."""
        return None if self._templates.name is None else self._templates.name.fill(_values(fields or {}, key, index))

    def _argv(self, words: tuple[str, ...]) -> tuple[str, ...]:
        return shell_argv(words[0], self.shell) if self.shell else words

    def identity(self) -> dict[str, Any]:
        """Return what identifies a job, in JSON's types: everything but resources, time-outs and name.

        A command has the same identity as a string and as the list of its words.
        """
        return {
            "cmd": self.cmd if self.shell else list(self.words),
            "image": self.image,
            "env": Environment(self.env).to_json(),
            "shell": self.shell,
            "workdir": self.workdir,
            "outputs": list(self.outputs),
        }

    def to_json(self) -> dict[str, Any]:
        """Return all arguments in JSON's types; `from_json` makes an equal spec of them."""
        return {
            "cmd": self.cmd if isinstance(self.cmd, str) else list(self.cmd),
            "image": self.image,
            "name": self.name,
            "cores": self.cores,
            "ram": self.ram,
            "gpus": self.gpus,
            "env": Environment(self.env).to_json(),
            "shell": self.shell,
            "workdir": self.workdir,
            "outputs": list(self.outputs),
            "timeout": self.timeout,
            "pending_timeout": self.pending_timeout,
            "expect": None if callable(self.expect) else self.expect,
            "receipt": self.receipt,
            "function": self.function,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> JobSpec:
        """Return the spec that `to_json` stored.

        Raises:
            SpecError: *data* was not stored by `to_json`, or by a version with more arguments.
        """
        known = {field.name for field in attrs.fields(cls)}
        if unknown := sorted(set(data) - known):
            raise SpecError(f"a stored spec has {', '.join(unknown)}, which this version does not know")
        if missing := sorted({"cmd", "image"} - set(data)):
            raise SpecError(f"a stored spec lacks {' and '.join(missing)}")
        env = {name: value_from_json(value) for name, value in data.get("env", {}).items()}
        return cls(**{**data, "env": env})

    def __repr__(self) -> str:
        shown = [_clipped(repr(self.cmd if isinstance(self.cmd, str) else list(self.cmd)))]
        for field in attrs.fields(type(self))[1:]:
            value = getattr(self, field.name)
            if value != field.default:
                shown.append(f"{field.name}={_clipped(repr(value))}")
        return f"JobSpec({', '.join(shown)})"


def _values(fields: Mapping[str, Any], key: str | None, index: int | None) -> dict[str, Any]:
    """Return the fields and, unless the job has its own, ``key`` and ``index``."""
    values = dict(fields)
    if key is not None:
        values.setdefault("key", key)
    if index is not None:
        values.setdefault("index", index)
    return values


#: what other programs call the arguments of a spec
_OTHER_NAMES = {
    "command": "cmd", "cpus": "cores", "cpu": "cores", "environment": "env", "mem": "ram", "memory": "ram",
    "time": "timeout", "walltime": "timeout",
}  # fmt: skip


def meant(name: str, known: Iterable[str]) -> str:
    """Return the question whether one of the *known* arguments of a spec was meant; empty if none resembles *name*."""
    return did_you_mean(_OTHER_NAMES.get(name, name), known)


JobSpec.__init__ = naming_arguments("a job", SpecError, _OTHER_NAMES)(JobSpec.__init__)  # type: ignore[method-assign]


def _clipped(text: str, width: int = 80) -> str:
    return text if len(text) <= width else f"{text[: width - 2]}…{text[-1]}"


def _check_program(program: str, cmd: object) -> None:
    if not program:
        raise SpecError(f"cmd={cmd!r} begins with an empty word; the first is the program to run")
    if program.startswith("-"):
        raise SpecError(f"cmd begins with {program!r}, an option; the program to run comes first")
    if isinstance(cmd, str) and re.match(r"[A-Za-z_]\w*=", program):
        raise SpecError(f"cmd begins with {program!r}: give variables as env={{…}}, or say shell=True")


def _checked(
    argv: tuple[str, ...],
    env: tuple[tuple[str, str | Secret], ...],
    name: str | None,
    workdir: str | None,
    outputs: tuple[str, ...],
) -> Filled:
    """Return the filled spec if it still makes sense with the fields' values."""
    _check_program(argv[0], argv)
    if name is not None:
        converters.check_name(name)
    if workdir is not None:
        converters.check_path(workdir, "workdir")
    for output in outputs:
        converters.check_path(output, "an output")
    return Filled(argv, env, name, workdir, outputs)
