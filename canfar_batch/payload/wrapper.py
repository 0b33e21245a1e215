"""The wrappers, `wrapper.sh` and `bundle.sh`, as they are sent with launches, and the constants that they share."""

from __future__ import annotations

from importlib.resources import files

EXIT_WORKDIR = 96  #: exit code if the job's own working directory could not be entered
EXIT_NO_PLACE = 95  #: exit code of a bundle in whose container no temporary file can be made
EXIT_DECODE = 97  #: exit code if the command could not be decoded: there is no `base64` in the image

MARK = "#canfar_batch"  #: the beginning of every line of a receipt
MOST_OUTPUTS = 1000  #: how many files a receipt names; all are counted


def _packed(text: str) -> str:
    """Return *text* without comments and indentation, because every launch carries it."""
    lines = (line.strip() for line in text.splitlines())
    return "\n".join(line for line in lines if line and not line.startswith("#"))


def _read(name: str) -> str:
    text = files(__package__).joinpath(name).read_text(encoding="utf-8")
    constants = {
        "@MARK@": MARK, "@MOST@": str(MOST_OUTPUTS), "@WORKDIR@": str(EXIT_WORKDIR), "@NO_PLACE@": str(EXIT_NO_PLACE),
    }  # fmt: skip
    for name, value in constants.items():
        text = text.replace(name, value)
    return text


def _parts(text: str) -> tuple[str, str]:
    """Return the functions of the wrapper, and what it does."""
    functions, _, run = text.partition("# -- the run\n")
    return _packed(functions), _packed(run)


FUNCTIONS, RUN = _parts(_read("wrapper.sh"))  #: the two halves of the text that runs around a command
BODY = f"{FUNCTIONS}\n{RUN}"  #: the shell text that runs around one job's command
BUNDLE = _packed(_read("bundle.sh"))  #: the shell text that runs the tasks of a bundle, each by RUN
