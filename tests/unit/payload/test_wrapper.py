"""The wrapper as a text; tests/integration/test_wrapper.py runs it."""

from __future__ import annotations

import base64
import shutil
import subprocess
from pathlib import Path

import pytest

from canfar_batch.payload import wrapper
from canfar_batch.payload.encode import OUTER, Payload, encode_wrapped

NAME = "calib-ngc1275-k3x9z1-1f-2"


def script(payload: Payload) -> str:
    assert payload.args is not None
    words = payload.args.split(" ")
    assert (payload.cmd, words[:3]) == ("/bin/sh", ["-c", OUTER, "job"])
    return base64.b64decode("".join(words[3:]), validate=True).decode("utf-8", "surrogateescape")


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
@pytest.mark.parametrize("file", ["wrapper.sh", "bundle.sh"])
def test_shellcheck_finds_nothing_in_the_wrappers(file):
    found = subprocess.run(
        ["shellcheck", Path(wrapper.__file__).with_name(file)], capture_output=True, text=True, check=False
    )
    assert (found.stdout, found.returncode) == ("", 0)


def test_the_wrapper_is_sent_without_its_comments():
    text = script(encode_wrapped(["prog"], launch_name=NAME, key="k"))
    assert wrapper.BODY in text
    assert not [line for line in text.splitlines() if line.startswith(("#", " "))]
    assert len(text) < 8192


def line(text: str) -> bytes:
    return f"\n{text} #{NAME}\n".encode()
