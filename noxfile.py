"""Run the tests on every Python that is supported and installed: `pipx run nox`."""

import nox

nox.options.error_on_missing_interpreters = False


@nox.session(python=["3.10", "3.11", "3.12", "3.13"])
def tests(session: nox.Session) -> None:
    """The whole test suite; what stands behind `--` goes to pytest."""
    session.install("-e", ".[test]")
    session.run("pytest", "-n", "2", *session.posargs)
