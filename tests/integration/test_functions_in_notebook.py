"""`session.map` in a notebook: 500 parameter sets, a kernel that is killed, and one exception."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

jupyter_client = pytest.importorskip("jupyter_client", reason="jupyter_client is not installed")
pytest.importorskip("ipykernel", reason="ipykernel is not installed")

SETS = 500
BAD = 137  #: the parameter for which the function raises
pytestmark = [pytest.mark.timeout(400), pytest.mark.soak]

DEFINITIONS = f"""
import os
import canfar_batch as cb

RAN = {{ran!r}}

class Fit:
    "A result of a class of the notebook."
    def __init__(self, sigma, chi2):
        self.sigma, self.chi2 = sigma, chi2

def fit(sigma, offset):
    with open(RAN, "a") as file:
        file.write(f"{{sigma}}\\n")
    if sigma == {BAD}:
        raise ValueError(f"no convergence at {{sigma}}")
    return Fit(sigma, sigma ** 2 + offset)

sigmas, offsets = list(range({SETS})), [0.5] * {SETS}
session = cb.Session.connect()
spec = cb.Function(fit, image="skaha/astroml:latest", cores=1, ram=1, python={sys.executable!r})
"""
MAP = "fits = session.map(spec, sigmas, offsets, missing=None)"
SHOW = """
import json
failed = [job for job in cb.open(spec.name).failed]
print(json.dumps({
    "order": [fit if fit is None else [fit.sigma, fit.chi2] for fit in fits],
    "failed": [
        [job.fields["sigma"], job.failure.headline, "raise ValueError" in job.failure.message] for job in failed
    ],
    "containers": len({job.id for job in cb.open(spec.name).jobs}),
}))
"""


class Kernel:
    """One kernel of a notebook."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.manager = jupyter_client.KernelManager(kernel_name="python3")
        kept = {name: value for name, value in os.environ.items() if not name.startswith("CANFAR_")}
        environment = {**kept, "IPYTHONDIR": str(folder / ".ipython"), "CANFAR_BATCH_HOME": str(folder), **settings}
        self.manager.start_kernel(cwd=str(folder), env=environment)
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(60)

    def start(self, cell: str) -> None:
        """Run a cell, and do not wait for its end."""
        self.client.execute(cell)

    def run(self, cell: str) -> str:
        """Run a cell, and return what it printed."""
        printed: list[str] = []

        def hear(message: dict) -> None:
            content = message["content"]
            assert message["msg_type"] != "error", "\n".join(content["traceback"])
            if message["msg_type"] == "stream":
                printed.append(content["text"])

        self.client.execute_interactive(cell, timeout=300, output_hook=hear)
        return "".join(printed)

    def kill(self) -> None:
        """End it at once."""
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


def test_500_parameter_sets_survive_a_killed_kernel(local_platform, tmp_path):
    platform = local_platform(cores=16)
    ran, settings = tmp_path / "ran", {"CANFAR_URL": platform.url, "CANFAR_TOKEN": platform.token}
    definitions = DEFINITIONS.replace("{ran!r}", repr(str(ran)))
    first = Kernel(tmp_path, **settings)
    try:
        first.run(definitions)
        first.start(MAP)
        deadline = time.monotonic() + 120
        while not ran.exists() or len(ran.read_text().split()) < 60:
            assert time.monotonic() < deadline, "nothing ran"
            time.sleep(0.05)
    finally:
        first.kill()
    second = Kernel(tmp_path, **settings)
    try:
        second.run(definitions)
        second.run(MAP)
        shown = json.loads(second.run(SHOW))
    finally:
        second.kill()
    expected = [None if sigma == BAD else [sigma, sigma**2 + 0.5] for sigma in range(SETS)]
    assert shown["order"] == expected
    assert shown["failed"] == [[BAD, f"ValueError: no convergence at {BAD}", True]]
    assert shown["containers"] <= 64
    assert Counter(ran.read_text().split()) == Counter(str(sigma) for sigma in range(SETS)), "each ran once"
