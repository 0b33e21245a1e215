"""The conditions that all tests share."""

import signal


def pytest_configure() -> None:
    """Take back signals that the shell ignores for a command in the background: child processes would ignore them."""
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)
