"""The wrapper, `wrapper.sh`, as it is sent with every launch, and the constants that it shares with its readers."""

from __future__ import annotations

from importlib.resources import files

EXIT_WORKDIR = 96  #: exit code if the job's own working directory could not be entered
EXIT_DECODE = 97  #: exit code if the command could not be decoded: there is no `base64` in the image

MARK = "#canfar_batch"  #: the beginning of every line of a receipt
MOST_OUTPUTS = 1000  #: how many files a receipt names; all are counted


def _packed(text: str) -> str:
    """Return *text* without comments and indentation, because every launch carries it."""
    lines = (line.strip() for line in text.splitlines())
    return "\n".join(line for line in lines if line and not line.startswith("#"))


def _read() -> str:
    text = files(__package__).joinpath("wrapper.sh").read_text(encoding="utf-8")
    constants = {"@MARK@": MARK, "@MOST@": str(MOST_OUTPUTS), "@WORKDIR@": str(EXIT_WORKDIR)}
    for name, value in constants.items():
        text = text.replace(name, value)
    return _packed(text)


BODY = _read()
