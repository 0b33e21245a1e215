"""Errors survive the way to another process, with all that they know."""

import inspect
import pickle

import pytest

from canfar_batch import errors
from canfar_batch.rest.network_errors import CertificateRefused, TooLarge, Untrusted

CLASSES = [each for _, each in inspect.getmembers(errors, inspect.isclass) if issubclass(each, BaseException)]
KNOWN = {
    "launch_name": "b-1", "status": 500, "server_text": "no", "retry_after": 7.0, "same_again": True, "may_pass": False,
    "was_accepted": True, "report": "a report",
}  # fmt: skip


@pytest.mark.parametrize("kind", [*CLASSES, TooLarge, Untrusted, CertificateRefused], ids=lambda kind: kind.__name__)
def test_every_error_can_be_pickled(kind):
    taken = inspect.signature(kind.__init__).parameters
    given = {name: value for name, value in KNOWN.items() if name in taken}
    error = kind("what happened", **given)
    error.__cause__ = ValueError("not carried along")
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        copy = pickle.loads(pickle.dumps(error, protocol))
        assert type(copy) is kind
        assert str(copy) == str(error)
        assert vars(copy) == vars(error)


def test_error_that_was_refused_says_whether_it_may_pass():
    assert errors.PlatformRefused("no").may_pass
    assert not errors.PlatformRefused("no", may_pass=False).may_pass


def test_busy_platform_is_not_a_value_error():
    assert not issubclass(errors.PlatformBusy, ValueError)
    assert issubclass(errors.NotMade, errors.PlatformBusy)
