"""Run the tests on every supported Python that is installed: `pipx run nox`.

Run the notebook in new environments, with and without the extras: `pipx run nox -s notebook notebook-bare`.
"""

import nox

nox.options.error_on_missing_interpreters = False
nox.options.sessions = ["tests"]

NOTEBOOK = "tests/integration/test_notebook.py"
EXECUTE = ("ipykernel", "nbclient", "pytest", "pytest-timeout")  # required to execute a notebook


@nox.session(python=["3.10", "3.11", "3.12", "3.13"])
def tests(session: nox.Session) -> None:
    """Run all tests; arguments after `--` go to pytest."""
    session.install("-e", ".[test]")
    session.run("pytest", "-n", "3", "--dist", "worksteal", *session.posargs)


@nox.session
def notebook(session: nox.Session) -> None:
    """Run the notebook in a new environment, with the extras."""
    session.install(".[all]", *EXECUTE)
    session.run("pytest", NOTEBOOK, "-k", "with_the_extras", *session.posargs)


@nox.session(name="notebook-bare")
def notebook_bare(session: nox.Session) -> None:
    """Run the notebook with only the package's own requirements: no tqdm, pandas, astropy, matplotlib or NumPy."""
    session.install(".", *EXECUTE)
    session.run("pytest", NOTEBOOK, "-m", "bare", *session.posargs)
