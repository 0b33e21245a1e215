"""Environment variables of a job: frozen, silent about secrets, and checked for variables that are not filled in."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import attrs

from canfar_batch.errors import SpecError
from canfar_batch.fields.values import NeverRendered
from canfar_batch.text import MASK

_SHORTEST_SECRET = 4  # characters; replacing shorter values would destroy text and hide nothing
#: Variables that the wrapper sets. With another value for one of them, a job could not be recognised.
RESERVED = frozenset({"CANFAR_BATCH_KEY", "CANFAR_BATCH_ATTEMPT", "CANFAR_BATCH_NAME"})

ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SECRET = re.compile(r"TOKEN|SECRET|PASSW|PASSPHRASE|KEY|CREDENTIAL|AUTH|CERT|PRIVATE|SIGNATURE", re.IGNORECASE)


def looks_secret(name: str) -> bool:
    """Return whether a variable of this name probably holds a secret."""
    return _SECRET.search(name) is not None and name not in RESERVED


@attrs.frozen
class Secret(NeverRendered):
    """A value of a job's environment that is read at each launch and never written down.

    ```python
    spec = cb.JobSpec("python fetch.py {path}", image="skaha/astroml:latest", env={"API_KEY": cb.Secret("API_KEY")})
    ```

    The batch's ledger stores only the variable's name, so a new value (after a renewal, say) does not change the job.

    Args:
        variable: The environment variable that holds the value, in the process that runs the batch.

    Raises:
        SpecError: *variable* is not the name of an environment variable.
    """

    variable: str = attrs.field()

    @variable.validator
    def _named(self, _: object, variable: object) -> None:
        if not isinstance(variable, str) or not ENV_NAME.fullmatch(variable):
            # the message does not repeat the argument, which may be the secret itself
            raise SpecError(
                "Secret() takes the name of an environment variable that holds the value, as Secret('API_KEY')"
            )

    def read(self) -> str:
        """Return the variable's value at this moment.

        Raises:
            SpecError: The variable is not set, or empty.
        """
        found = os.environ.get(self.variable)
        if not found:
            raise SpecError(f"the environment variable {self.variable}, which a job needs as a Secret, is not set here")
        return found

    def advice(self) -> str:
        """Return what to do instead of using the secret as a field's value."""
        name = self.variable
        return (
            f"which is never written down; give it in the spec: env={{{name!r}: Secret({name!r})}}, and let the job "
            "read it"
        )

    def to_json(self) -> dict[str, str]:
        """Return the variable's name, which is stored instead of the value."""
        return {"variable": self.variable}


class Environment(Mapping[str, "str | Secret"]):
    """Environment variables: frozen, sorted by name, with secrets masked in `repr`."""

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
        return repr(masked(self._values.items()))

    def to_json(self) -> dict[str, Any]:
        """Return the variables in JSON's types; `value_from_json` reads a value back."""
        return {name: value.to_json() if isinstance(value, Secret) else value for name, value in self.items()}


def value_from_json(value: Any) -> str | Secret:
    """Return a stored value of an environment: a text, or a `Secret`."""
    return Secret(**value) if isinstance(value, Mapping) else str(value)


def shown_value(name: str, value: str | Secret) -> str:
    """Return the value of the variable *name* as it may be shown, secrets masked."""
    if isinstance(value, Secret):
        return f"(the secret ${value.variable})"
    return MASK if looks_secret(name) else value


def masked(pairs: Iterable[tuple[str, str | Secret]]) -> dict[str, str]:
    """Return the variables as they may be shown."""
    return {name: shown_value(name, value) for name, value in pairs}


def readable(secrets: Iterable[Secret]) -> tuple[str, ...]:
    """Return the values of *secrets* that this process can read and that are long enough to hide, the longest first."""
    found = set()
    for secret in secrets:
        try:
            found.add(secret.read())
        except SpecError:  # not set in this process, so its value is unknown here
            continue
    return tuple(sorted((value for value in found if len(value) >= _SHORTEST_SECRET), key=len, reverse=True))


def without_values(text: str, values: Iterable[str]) -> str:
    """Return *text* with each of *values* replaced by `MASK`."""
    for value in values:
        text = text.replace(value, MASK)
    return text


_UNFILLED = re.compile(
    r"(?:^|(?<=[:=]))~(?:[A-Za-z_][\w.-]*)?(?=/|$)|(?<![\w\\])(?:\$[A-Za-z_]\w*|\$\{\w+\}|\$\([^()]+\)|`[^`]+`)"
)
#: a word of a path and of what a shell fills in; others may be code of another language, such as awk
_PATH_LIKE = re.compile(r"(?:[\w./:=~+,@%-]|\$\{?\w+\}?|\$\([\w ./-]+\)|`[\w ./-]+`)+")


def unfilled_variable(text: str) -> str | None:
    """Return what a shell would fill in in *text*, and nothing else will: `~`, `$NAME`, `$(…)`; None if there is none.

    Code of another language, such as `{print $NF}`, is left alone.
    """
    found = _UNFILLED.search(text)
    return found[0] if found and _PATH_LIKE.fullmatch(text) else None
