"""Errors are also the builtins that they resemble, and read as plain sentences."""

import pickle

import pytest

from canfar_batch import errors


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
