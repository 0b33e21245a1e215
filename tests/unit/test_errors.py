"""Errors are also the builtins that they resemble, and read as plain sentences."""

import inspect
import pickle

import pytest

from canfar_batch import errors
from canfar_batch.rest.network_errors import CertificateRefused, TooLarge, Untrusted


def test_an_unknown_job_is_a_key_error_with_a_plain_message():
    with pytest.raises(KeyError) as caught:
        raise errors.UnknownJob("batch fits has no job 'a'; there are b, c")
    assert str(caught.value) == "batch fits has no job 'a'; there are b, c"
    assert isinstance(caught.value, errors.CanfarBatchError)
    assert str(errors.UnknownJob()) == ""


def test_a_batch_that_is_only_read_permits_nothing_else():
    assert issubclass(errors.ReadOnlyBatch, PermissionError)


@pytest.mark.parametrize(
    "error",
    [
        errors.UnknownJob("no job"),
        errors.ReadOnlyBatch("read only"),
        errors.PlatformBusy("later", status=429, server_text="slow down", retry_after=5.0),
        errors.LaunchInDoubt("doubt", launch_name="b-1", status=500, server_text="x", same_again=True),
        errors.WaitTimeout("late", report={"a": 1}),
        errors.BatchPaused("paused", report=None),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_survive_pickling(error):
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert (str(again), again.args, vars(again)) == (str(error), error.args, vars(error))


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


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_error_can_be_made_as_other_picklers_make_it(kind):
    """With Dask in the process, tblib pickles every error: it calls `__new__` without arguments."""
    assert type(kind.__new__(kind)) is kind


def test_error_that_was_refused_says_whether_it_may_pass():
    assert errors.PlatformRefused("no").may_pass
    assert not errors.PlatformRefused("no", may_pass=False).may_pass
    assert not errors.JobNotFound("no such id").may_pass


def test_busy_platform_is_not_a_value_error():
    assert not issubclass(errors.PlatformBusy, ValueError)
    assert issubclass(errors.NotMade, errors.PlatformBusy)
