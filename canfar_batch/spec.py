"""JobSpec: what to run, checked where it is written; and what becomes of it when a job's fields are filled in."""

from __future__ import annotations

import decimal
import difflib
import functools
import math
import numbers
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn, TypeAlias

import attrs

from canfar_batch.errors import SpecError
from canfar_batch.fields.keys import check_key, job_key
from canfar_batch.fields.templates import Template, literal, shell_quoted
from canfar_batch.fields.values import NeverRendered, plain_fields
from canfar_batch.fields.words import split_words

__all__ = [
    "Environment",
    "Filled",
    "JobSpec",
    "Secret",
    "check_against",
    "check_key",
    "full_image",
    "job_key",
    "literal_path",
    "looks_secret",
    "plain_fields",
]

REGISTRY = "images.canfar.net"
#: Variables that the wrapper sets: a job that was given another value for one of them could not be known again.
RESERVED = frozenset({"CANFAR_BATCH_KEY", "CANFAR_BATCH_ATTEMPT", "CANFAR_BATCH_NAME"})

Text: TypeAlias = "str | os.PathLike[str]"
Word: TypeAlias = "str | os.PathLike[str] | int | float"
Value: TypeAlias = "Word | Secret"

_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SECRET = re.compile(r"TOKEN|SECRET|PASSW|PASSPHRASE|KEY|CREDENTIAL|AUTH|CERT|PRIVATE|SIGNATURE", re.IGNORECASE)


def looks_secret(name: str) -> bool:
    """Whether a variable of this name is likely to hold something that nobody else should see."""
    return _SECRET.search(name) is not None and name not in RESERVED


@attrs.frozen
class Secret(NeverRendered):
    """A value of a job's environment that is read at each launch and written down nowhere.

    ```python
    spec = cb.JobSpec("python fetch.py {path}", image="skaha/astroml:latest", env={"API_KEY": cb.Secret("API_KEY")})
    ```

    The batch's ledger keeps the variable's name alone, so another value, as after a renewal, is no other job.

    Args:
        variable: The environment variable of the process that runs the batch which holds the value.

    Raises:
        SpecError: *variable* is no name of one.
    """

    variable: str = attrs.field()

    @variable.validator
    def _named(self, _: object, variable: object) -> None:
        if not isinstance(variable, str) or not _ENV_NAME.fullmatch(variable):
            # what stands here may be the secret itself
            _refuse("Secret() takes the name of an environment variable that holds the value, as Secret('API_KEY')")

    def read(self) -> str:
        """What the variable holds at this moment.

        Raises:
            SpecError: It is not set, or empty.
        """
        found = os.environ.get(self.variable)
        if not found:
            _refuse(f"the environment variable {self.variable}, which a job needs as a Secret, is not set here")
        return found

    def advice(self) -> str:
        """What to do where it stands for a field's value."""
        name = self.variable
        return f"written down nowhere; give it in the spec: env={{{name!r}: Secret({name!r})}}, and let the job read it"

    def to_json(self) -> dict[str, str]:
        """What is written down in its place: the variable's name."""
        return {"variable": self.variable}


class Environment(Mapping[str, "str | Secret"]):
    """Environment variables: frozen, in the order of their names, and silent about secrets."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, str | Secret]) -> None:
        self._values = dict(sorted(values.items()))

    def __getitem__(self, name: str) -> str | Secret:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __hash__(self) -> int:
        return hash(tuple(self._values.items()))

    def __repr__(self) -> str:
        return repr(_masked(self._values.items()))


def shown_value(name: str, value: str | Secret) -> str:
    """The value of the variable *name* as anybody may see it."""
    if isinstance(value, Secret):
        return f"(the secret ${value.variable})"
    return "***" if looks_secret(name) else value


def _masked(pairs: Iterable[tuple[str, str | Secret]]) -> dict[str, str]:
    return {name: shown_value(name, value) for name, value in pairs}


@attrs.frozen
class Filled:
    """A spec with one job's fields filled in: what is to run, byte for byte."""

    argv: tuple[str, ...]
    env: tuple[tuple[str, str | Secret], ...] = attrs.field(default=(), repr=lambda pairs: repr(_masked(pairs)))
    name: str | None = None
    workdir: str | None = None
    outputs: tuple[str, ...] = ()  #: patterns; what came from a field's value matches only itself

    @property
    def secrets(self) -> tuple[Secret, ...]:
        """Those values of the environment that are read at the launch."""
        return tuple(value for _, value in self.env if isinstance(value, Secret))

    def environment(self) -> tuple[tuple[str, str], ...]:
        """The variables with their values, secret ones included.

        Raises:
            SpecError: A secret is not to be had here.
        """
        return tuple((name, value.read() if isinstance(value, Secret) else value) for name, value in self.env)


# -- converters: each refuses what it cannot make sense of ---------------------------------------------------------


def _refuse(problem: str) -> NoReturn:
    raise SpecError(problem)


def _text(value: object, what: str) -> str:
    """*value* as text, from a string or a path."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str):
        _refuse(f"{what} is {value!r}, a {type(value).__name__}; give a string or a path")
    if "\0" in value:
        _refuse(f"{what} contains a NUL character, which no argument, variable or file name can")
    return str(value)


def _word(value: object, what: str) -> str:
    """*value* as text, from a string, a path or a number."""
    if value is None:
        _refuse(f"{what} is None; leave it out, or give an empty string")
    if type(value).__name__ in ("bool", "bool_"):  # numpy's is no bool
        _refuse(f"{what} is {value}; write what the program expects, as '1', 'true' or 'yes'")
    if (number := _number(value)) is None:
        return _text(value, what)
    if math.isnan(number):
        _refuse(f"{what} is not a number (NaN)")
    return str(int(number)) if isinstance(number, numbers.Integral) else str(number)


def _number(value: object) -> Any:
    """*value* if it is a number, of Python or of numpy, and no bool; else None."""
    if isinstance(value, bool):
        return None
    return value if isinstance(value, (numbers.Real, decimal.Decimal)) else None


def _command(cmd: Text | Sequence[Word]) -> str | tuple[str, ...]:
    if isinstance(cmd, str):
        text = _text(cmd, "cmd")
        return text if text.strip() else _refuse("cmd is empty; say what to run, as cmd='python fit.py'")
    if isinstance(cmd, os.PathLike):
        return (_text(cmd, "cmd"),)
    if not isinstance(cmd, Sequence) or isinstance(cmd, (bytes, bytearray)):
        _refuse(f"cmd={cmd!r} is neither a string nor a list of words")
    words = tuple(_word(word, f"word {place} of cmd") for place, word in enumerate(cmd))
    if not words:
        _refuse("cmd is an empty list; say what to run, as cmd=['python', 'fit.py']")
    return words


def _image(image: str) -> str:
    text = _text(image, "image").strip("\n")
    if not text or re.search(r"\s", text):
        _refuse(f"image={text!r} is not the name of an image; one looks like 'skaha/astroml:latest'")
    if "://" in text:
        _refuse(f"image={text!r} has a scheme; leave it away: {text.partition('://')[2]!r}")
    return text


def _name(name: str | None) -> str | None:
    if name is None:
        return None
    text = _text(name, "name")
    return text if re.search(r"[A-Za-z0-9]", text) else _refuse(_nameless(text))


def _nameless(name: str) -> str:
    return f"name={name!r} has no letter or digit (a to z, 0 to 9) to make a name of"


def _count(value: object, what: str, unit: str) -> int | None:
    """*value* as a whole positive number."""
    if value is None:
        return None
    number = _number(value)
    if number is None or not math.isfinite(number) or number <= 0:
        _refuse(f"{what}={value!r} is not a positive number of {unit}; leave it out for the platform's default")
    if number != int(number):
        _refuse(f"{what}={value!r} is not a whole number of {unit}; take {math.ceil(number)}")
    return int(number)


def _cores(cores: float | None) -> int | None:
    return _count(cores, "cores", "cores")


def _ram(ram: float | None) -> int | None:
    return _count(ram, "ram", "GiB")


def _gpus(gpus: float | None) -> int | None:
    # the service itself refuses `gpus=0` (skaha-api §1.2), but to say so is a sane way of wanting none
    return None if _number(gpus) == 0 else _count(gpus, "gpus", "GPUs")


def _environment(env: Mapping[str, Value]) -> Environment:
    if isinstance(env, Environment):
        return env
    if not isinstance(env, Mapping):
        _refuse(f"env is a {type(env).__name__}; give a mapping of names to values, as env={{'MODE': 'fast'}}")
    values: dict[str, str | Secret] = {}
    for name, value in env.items():
        if not isinstance(name, str) or not _ENV_NAME.fullmatch(name):
            _refuse(f"env has the name {name!r}; letters, digits and '_' make one, and no digit comes first")
        if name in RESERVED:
            _refuse(f"env sets {name}, which canfar_batch sets itself for every job")
        values[str(name)] = value if isinstance(value, Secret) else _word(value, f"the value of {name} in env")
    return Environment(values)


def _directory(workdir: Text | None) -> str | None:
    return None if workdir is None else _path(_text(workdir, "workdir"), "workdir")


def _outputs(outputs: Text | Sequence[Text]) -> tuple[str, ...]:
    if isinstance(outputs, (str, bytes, os.PathLike)):
        outputs = (outputs,)
    if not isinstance(outputs, Sequence):
        _refuse(f"outputs={outputs!r} is neither a path nor a list of paths")
    return tuple(_path(_text(path, "an output"), "an output") for path in outputs)


def _path(path: str, what: str) -> str:
    if not path.strip():
        _refuse(f"{what} is {path!r}; leave it out, or name a path")
    if path.startswith("~"):
        _refuse(f"{what} is {path!r}; no shell expands the ~: write the path in full, as /arc/home/you/…")
    if what == "an output" and "**" in path:
        _refuse(f"{what} is {path!r}; ** is not understood: name each level, as a/*/*.fits")
    return path


def _seconds(value: object, what: str) -> float | None:
    if value is None:
        return None
    number = _number(value)
    if number is None or not math.isfinite(number) or number <= 0:
        _refuse(f"{what}={value!r} is not a positive number of seconds; leave it out for no limit")
    return float(number)


def _timeout(timeout: float | None) -> float | None:
    return _seconds(timeout, "timeout")


def _pending_timeout(pending_timeout: float | None) -> float | None:
    return _seconds(pending_timeout, "pending_timeout")


def _yes_or_no(_: object, attribute: attrs.Attribute[bool], value: object) -> None:
    if not isinstance(value, bool):
        _refuse(f"{attribute.name}={value!r} is neither True nor False")


# -- the spec -----------------------------------------------------------------------------------------------------


@attrs.frozen
class _Templates:
    """The templates of a spec, read once."""

    argv: tuple[Template, ...]  #: for a shell: the command alone
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
            blank in a file name cannot split an argument; a list of words is taken as it is. What needs a shell (a bare
            ``> | && * $X``) is refused unless *shell* is true.
        image: The container image; a short name as `skaha/astroml` is completed by `full_image`.
        name: What the job is called in the portal; by default that is made of the batch's name and the job's key.
        cores: Whole cores; None leaves it to the platform.
        ram: Whole GiB; None leaves it to the platform.
        gpus: GPUs; None or 0 for none.
        env: Environment variables. Numbers and paths become text. What nobody should see is given as a `Secret`.
        shell: Run the string *cmd* by ``/bin/sh -c``; every field is quoted for the shell.
        workdir: Where the command runs; by default the driver's working directory where containers see it, else the
            container's home.
        outputs: What the command leaves behind, as paths relative to *workdir*, or patterns with ``* ? […]``. A job
            that did not write one of them did not succeed.
        timeout: Seconds that the command may run.
        pending_timeout: Seconds that the job may wait to be started.
        receipt: Run the command under the wrapper that reports how it ended. Without it, failures are inferred, and
            *timeout* and *outputs* cannot be seen to.

    Words, values of *env*, *name*, *workdir* and *outputs* are templates: `fields` tells what a ``{field}`` is.
    ``{key}`` and ``{index}`` always exist. A job that is given no fields takes every template as it is written.

    Raises:
        SpecError: Something of this makes no sense; the message says what, and what to do.
    """

    cmd: str | tuple[str, ...] = attrs.field(converter=_command)
    image: str = attrs.field(kw_only=True, converter=_image)
    name: str | None = attrs.field(default=None, kw_only=True, converter=_name)
    cores: int | None = attrs.field(default=None, kw_only=True, converter=_cores)
    ram: int | None = attrs.field(default=None, kw_only=True, converter=_ram)
    gpus: int | None = attrs.field(default=None, kw_only=True, converter=_gpus)
    env: Mapping[str, str | Secret] = attrs.field(default=Environment({}), kw_only=True, converter=_environment)
    shell: bool = attrs.field(default=False, kw_only=True, validator=_yes_or_no)
    workdir: str | None = attrs.field(default=None, kw_only=True, converter=_directory)
    outputs: tuple[str, ...] = attrs.field(default=(), kw_only=True, converter=_outputs)
    timeout: float | None = attrs.field(default=None, kw_only=True, converter=_timeout)
    pending_timeout: float | None = attrs.field(default=None, kw_only=True, converter=_pending_timeout)
    receipt: bool = attrs.field(default=True, kw_only=True, validator=_yes_or_no)

    def __attrs_post_init__(self) -> None:
        if self.shell and not isinstance(self.cmd, str):
            _refuse("shell=True takes cmd as one string; a list of words needs no shell")
        if self.timeout is not None and not self.receipt:
            _refuse("timeout is enforced by the wrapper, which receipt=False leaves out; give only one of them")
        if self.outputs and not self.receipt:
            _refuse(
                "outputs are looked for by the wrapper, which receipt=False leaves out; give only one of them "
                "(a collector may name files, too: Files('cat/*.cat'))"
            )
        if not self.shell:
            _check_program(self.words[0], self.cmd)

    @functools.cached_property
    def words(self) -> tuple[str, ...]:
        """The command as words, their fields not filled; for a shell, the command as one."""
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

    @property
    def secrets(self) -> tuple[Secret, ...]:
        """Those values of the environment that are read at the launch."""
        return tuple(value for value in self.env.values() if isinstance(value, Secret))

    def fill(self, fields: Mapping[str, Any] | None = None, *, key: str = "", index: int = 0) -> Filled:
        """What one job runs.

        Args:
            fields: The job's fields. With none, nothing is filled: templates stand as they are written.
            key: The job's key, which is ``{key}`` unless *fields* has another.
            index: The job's place in the plan, from 0, which is ``{index}`` likewise.

        Raises:
            SpecError: A template names a field that does not exist, or one whose value is missing.
        """
        if not fields:
            return _checked(self._argv(self.words), tuple(self.env.items()), self.name, self.workdir, self.outputs)
        values = {**fields, "key": fields.get("key", key), "index": fields.get("index", index)}
        templates = self._templates
        written = shell_quoted if self.shell else None
        return _checked(
            self._argv(tuple([template.fill(values, written) for template in templates.argv])),
            tuple([(name, part if isinstance(part, Secret) else part.fill(values)) for name, part in templates.env]),
            None if templates.name is None else templates.name.fill(values),
            None if templates.workdir is None else templates.workdir.fill(values),
            tuple([template.fill(values, literal) for template in templates.outputs]),
        )

    def filled_name(self, fields: Mapping[str, Any], *, key: str, index: int) -> str | None:
        """The name alone, as `fill` would fill it."""
        if self._templates.name is None or not fields:
            return self.name
        return self._templates.name.fill({"key": key, "index": index, **fields})

    def _argv(self, words: tuple[str, ...]) -> tuple[str, ...]:
        return ("/bin/sh", "-c", *words) if self.shell else words

    def identity(self) -> dict[str, Any]:
        """What makes a job the one it is: all but resources, time-outs and name. JSON-able.

        A command means the same as a string and as the list of its words.
        """
        return {
            "cmd": self.cmd if self.shell else list(self.words),
            "image": self.image,
            "env": self._env_to_json(),
            "shell": self.shell,
            "workdir": self.workdir,
            "outputs": list(self.outputs),
        }

    def to_json(self) -> dict[str, Any]:
        """Everything, in the types that JSON has; `from_json` makes an equal spec of it."""
        return {
            "cmd": self.cmd if isinstance(self.cmd, str) else list(self.cmd),
            "image": self.image,
            "name": self.name,
            "cores": self.cores,
            "ram": self.ram,
            "gpus": self.gpus,
            "env": self._env_to_json(),
            "shell": self.shell,
            "workdir": self.workdir,
            "outputs": list(self.outputs),
            "timeout": self.timeout,
            "pending_timeout": self.pending_timeout,
            "receipt": self.receipt,
        }

    def _env_to_json(self) -> dict[str, Any]:
        return {name: value.to_json() if isinstance(value, Secret) else value for name, value in self.env.items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> JobSpec:
        """The spec that `to_json` wrote.

        Raises:
            SpecError: *data* is not from `to_json`, or from one that knew more.
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


def _checking_names(init: Callable[..., None]) -> Callable[..., None]:
    """Return *init*, which then refuses unknown arguments with the nearest name."""

    @functools.wraps(init)
    def checked(self: JobSpec, *values: Any, **named: Any) -> None:
        known = attrs.fields_dict(JobSpec)
        for name in named:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                advice = f"; did you mean {near[0]}?" if near else f"; it has {', '.join(known)}"
                raise SpecError(f"a job has no {name}{advice}")
        init(self, *values, **named)

    return checked


JobSpec.__init__ = _checking_names(JobSpec.__init__)  # type: ignore[method-assign]


def value_from_json(value: Any) -> str | Secret:
    """A value of an environment as it was written down: a text, or where a secret is found."""
    return Secret(**value) if isinstance(value, Mapping) else str(value)


def _clipped(text: str, width: int = 80) -> str:
    return text if len(text) <= width else f"{text[: width - 2]}…{text[-1]}"


def _check_program(program: str, cmd: object) -> None:
    if not program:
        _refuse(f"cmd={cmd!r} begins with an empty word; the first is the program to run")
    if program.startswith("-"):
        _refuse(f"cmd begins with {program!r}, an option; the program to run comes first")
    if isinstance(cmd, str) and re.match(r"[A-Za-z_]\w*=", program):
        _refuse(f"cmd begins with {program!r}: give variables as env={{…}}, or say shell=True")


def _checked(
    argv: tuple[str, ...],
    env: tuple[tuple[str, str | Secret], ...],
    name: str | None,
    workdir: str | None,
    outputs: tuple[str, ...],
) -> Filled:
    """The filled spec, if the values left sense in it."""
    _check_program(argv[0], argv)
    if name is not None and not re.search(r"[A-Za-z0-9]", name):
        _refuse(_nameless(name))
    if workdir is not None:
        _path(workdir, "workdir")
    for output in outputs:
        _path(output, "an output")
    return Filled(argv, env, name, workdir, outputs)


# -- around the spec ----------------------------------------------------------------------------------------------


def full_image(image: str, registry: str = REGISTRY) -> str:
    """The image's whole name: `skaha/astroml` is `images.canfar.net/skaha/astroml:latest`.

    A name that begins with a host (a dot, a colon, or `localhost`) keeps it; a tag or digest is kept. So does the
    platform's official client.
    """
    host, slash, _ = image.partition("/")
    if not slash or not (re.search(r"[.:]", host) or host == "localhost"):
        image = f"{registry}/{image}"
    return image if re.search(r"[:@]", image.rpartition("/")[2]) or "@" in image else f"{image}:latest"


def literal_path(pattern: str) -> str | None:
    """The one path that *pattern* stands for, or None if it may match several.

    Single characters between brackets stand for themselves: so are a field's values written.
    """
    plain = re.sub(r"\[([*?[])\]", "", pattern)
    if re.search(r"[*?]|\[.[^\]]*\]", plain, re.DOTALL):
        return None
    return re.sub(r"\[([*?[])\]", r"\1", pattern)


def check_against(
    spec: JobSpec,
    *,
    cores_options: Sequence[int] | None = None,
    ram_options: Sequence[int] | None = None,
    gpu_options: Sequence[int] | None = None,
) -> None:
    """See to it that the platform offers what *spec* asks for.

    Args:
        spec: Its cores, RAM and GPUs are looked at.
        cores_options: The numbers of cores that the platform offers; None where that is not known.
        ram_options: Likewise, GiB.
        gpu_options: Likewise; empty where it has none.

    Raises:
        SpecError: It does not; the message names the nearest that it offers.
    """
    problems = [
        problem
        for what, unit, value, options in (
            ("cores", "cores", spec.cores, cores_options or None),
            ("ram", "GiB", spec.ram, ram_options or None),
            ("gpus", "GPUs", spec.gpus, gpu_options),
        )
        if value is not None and options is not None and (problem := _not_offered(what, unit, value, options))
    ]
    if problems:
        _refuse("; ".join(problems))


def _not_offered(what: str, unit: str, value: int, options: Sequence[int]) -> str:
    if value in options:
        return ""
    if not options:
        return f"{what}={value} is not offered; this platform has none, so leave {what} out"
    below = max((option for option in options if option < value), default=None)
    above = min((option for option in options if option > value), default=None)
    if below is None or above is None:
        return f"{what}={value} is not offered; the nearest is {above if below is None else below} {unit}"
    return f"{what}={value} is not offered; the nearest are {below} and {above} {unit}"
