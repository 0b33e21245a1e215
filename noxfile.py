"""Run the tests on every Python that is supported and installed: `pipx run nox`.

The notebook in fresh environments, with the extras and without: `pipx run nox -s notebook notebook-bare`.
"""

import nox

nox.options.error_on_missing_interpreters = False
nox.options.sessions = ["tests"]

NOTEBOOK = "tests/integration/test_notebook.py"
EXECUTE = ("ipykernel", "nbclient", "pytest", "pytest-timeout")  # what it takes to execute one


@nox.session(python=["3.10", "3.11", "3.12", "3.13"])
def tests(session: nox.Session) -> None:
    """The whole test suite; what stands behind `--` goes to pytest."""
    session.install("-e", ".[test]")
    session.run("pytest", "-n", "3", "--dist", "worksteal", *session.posargs)


@nox.session
def notebook(session: nox.Session) -> None:
    """The notebook in a new environment, with the extras."""
    session.install(".[all]", *EXECUTE)
    session.run("pytest", NOTEBOOK, "-k", "with_the_extras", *session.posargs)


@nox.session(name="notebook-bare")
def notebook_bare(session: nox.Session) -> None:
    """Likewise, with nothing but what the package itself needs: no pandas, astropy, matplotlib, NumPy."""
    session.install(".", *EXECUTE)
    session.run("pytest", NOTEBOOK, "-m", "bare", *session.posargs)
