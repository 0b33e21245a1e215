"""The conditions that all tests share."""

import signal

from hypothesis import HealthCheck, settings

# on a busy machine, an example may take any time
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])


def pytest_configure() -> None:
    """Take back signals that the shell ignores for a command in the background: child processes would ignore them."""
    settings.load_profile("patient")
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)
