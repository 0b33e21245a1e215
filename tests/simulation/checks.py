"""What must hold of a job, whatever became of its containers."""

from __future__ import annotations

from canfar_batch import failures
from canfar_batch.records import JobState
from simulation.cluster import clock_time

#: the failure of an attempt that ended so
CLASSES = {
    "out of memory": failures.Killed,
    "evicted": failures.Evicted,
    "drained": failures.Evicted,
    "pre-empted": failures.Evicted,
    "forced": failures.Evicted,
    "node lost": failures.Evicted,
    "deleted": failures.Deleted,
    "deleted before it begins": failures.Deleted,
    "deadline": failures.DeadlineExceeded,
    "start error": failures.StartError,
    "cancelled for its time": failures.TimedOut,
}


def check_batch(batch, cluster, *, planned, asked, retries_deleted):
    """Every planned job is final once, and has the truth's outcome.

    A job that is *asked* for and not *planned* is one whose driver was killed while it planned.
    """
    keys = [job.key for job in batch.records]
    assert keys == sorted(keys, key=lambda key: int(key[1:])), keys
    assert planned <= {*keys} <= asked, f"a job is lost, or invented: {keys}"
    for job in batch.records:
        assert job.state.final, job
        assert [attempt.number for attempt in job.attempts] == [*range(1, len(job.attempts) + 1)]
        succeeded = [attempt.succeeded for attempt in job.attempts]
        assert None not in succeeded, job
        assert succeeded == [False] * (len(succeeded) - 1) + [job.state is JobState.SUCCEEDED] * bool(succeeded), job
        cluster.check_job(job, retries_deleted=retries_deleted)


def check_job(job, cluster, *, retries_deleted):
    """A job of a container of its own has the truth's outcome, and so has each attempt."""
    if job.state is JobState.SUCCEEDED and not job.collected:  # the result is the log
        assert job.attempts[-1].log is None, job
        assert cluster.lost_its_log(job.attempts[-1].launch_name), job
    for attempt in job.attempts:
        if attempt.id is None:
            check_unsent(attempt, cluster)
        else:
            check_attempt(attempt, cluster)
    check_retries(job, retries_deleted, cluster)


def check_unsent(attempt, cluster):
    """No container of it was ever seen; a receipt file may have reported it nevertheless."""
    stories = [story for story in cluster.stories.values() if story.name == attempt.launch_name]
    if attempt.verified:
        assert attempt.receipt.exit_code in [story.last.code for story in stories if story.last], attempt
    else:
        assert not attempt.succeeded, attempt
        assert not cluster.is_unbroken or not [story for story in stories if story.seen], attempt


def check_attempt(attempt, cluster):
    story = cluster.stories[attempt.id]
    last, receipt = story.last, attempt.receipt
    truth = f"{attempt}\n{story}"
    # a job that the platform called completed and has forgotten is an unverified success: its outputs cannot be checked
    checks_outputs = cluster.outputs and attempt.verified
    is_complete = last is not None and last.code == 0 and (last.complete or not checks_outputs)
    if attempt.succeeded:
        assert is_complete, truth
        assert not last.killed, truth
        shows_no_stop = not attempt.verified
        assert (last.by_itself and not last.late) or (cluster.outputs and attempt.warnings) or shows_no_stop, truth
    if attempt.verified:
        assert receipt.exit_code == last.code, truth
        assert receipt.started_at.timestamp() == round(clock_time(last.begin) + story.skew, 6), truth
    if attempt.failure is None and not attempt.succeeded:
        assert story.key in cluster.cancelled, truth
        return
    if isinstance(attempt.failure, failures.Unwatched):
        assert not cluster.is_unbroken, truth
        has_old_receipt = len(story.runs) > 1 and story.skew < 0  # it seems to be an earlier run's
        assert not leaves_file(cluster, story, last) or not last.by_itself or has_old_receipt, truth
        return
    if isinstance(attempt.failure, failures.StuckPending):
        assert not story.seen_running or cluster.clock.was_set or cluster.troubles, truth
        return
    if not story.wrapped:
        check_unwrapped(attempt, story, last, cluster, truth)
        return
    has_file = leaves_file(cluster, story, last)
    if story.end == "deleted after its end" and not has_file:
        return  # its log went with it
    if last is not None and last.by_itself:
        unseen = not (has_file or story.seen_running) and last.mute[1] > story.final_at + 30
        if isinstance(attempt.failure, failures.Unknown) and unseen:
            return  # nothing shows that it began
        if has_file or cluster.could_read(story):
            check_own_end(attempt, story, is_complete, truth)
    elif cluster.was_unwatched(story) or any(run.end > last.begin for run in story.runs[:-1] if last):
        return  # of two pods at a time, the receipts of one may hide those of the other
    elif isinstance(attempt.failure, failures.Lost) and not (story.seen and cluster.is_unbroken):
        # or an earlier driver stopped it for its waiting, and was replaced before it could record the end
        assert "deleted" in story.end or (story.end == "cancelled" and not story.runs), truth
    elif isinstance(attempt.failure, failures.Unknown) and last is not None and last.rotated:
        assert not cluster.visible, truth
        assert not story.seen_running, truth  # its log has lost the line that shows that it began
    elif isinstance(attempt.failure, failures.Evicted) and "deleted" in story.end:
        assert not cluster.is_unbroken, truth  # who asked it to stop is not known
    elif cluster.troubles and isinstance(attempt.failure, (failures.Killed, failures.Unknown, failures.Evicted)):
        return  # what would show the cause could not be had
    elif story.end == "deadline" and story.skew < 0:
        return  # by the container's clock, it ended long before the deadline
    elif not attempt.succeeded and story.end in CLASSES:
        assert isinstance(attempt.failure, CLASSES[story.end]), truth


def leaves_file(cluster, story, last):
    """Whether the receipt files are those of the last run, and not of an earlier one that took its time to die."""
    sees_home = cluster.visible and story.wrapped
    return sees_home and last is not None and all(run.end <= last.end for run in story.runs)


def check_unwrapped(attempt, story, last, cluster, truth):
    """Without the wrapper, the platform's word is all, but for what its events say."""
    if isinstance(attempt.failure, failures.Unknown) and cluster.troubles:
        return  # its events were not to be had while its pod was there
    if cluster.was_unwatched(story):
        return
    if story.end == "by itself":
        assert attempt.succeeded == (last.code == 0), truth
        assert attempt.succeeded or isinstance(attempt.failure, failures.Unknown), truth
    elif not attempt.succeeded and story.end in CLASSES and story.end not in ("out of memory", "deadline"):
        unseen = isinstance(attempt.failure, failures.Lost) and not story.seen
        assert unseen or isinstance(attempt.failure, CLASSES[story.end]), truth


def check_own_end(attempt, story, is_complete, truth):
    last = story.last
    if (last.rotated and story.skew) or (len(story.runs) > 1 and story.skew < 0):
        return  # by another clock, it may be the receipt of an earlier run
    if last.late:
        assert attempt.verified, truth
        assert attempt.succeeded or isinstance(attempt.failure, failures.TimedOut), truth
        return
    assert attempt.verified, truth
    assert attempt.succeeded == is_complete, truth
    if last.code == 0:
        assert is_complete or isinstance(attempt.failure, failures.MissingOutput), truth
    elif last.oom_kills:
        assert isinstance(attempt.failure, failures.OutOfMemory), truth
    else:
        assert attempt.failure.code == last.code, truth


def check_retries(job, retries_deleted, cluster):
    if job.key in cluster.reopened:
        return
    kinds = [type(attempt.failure) for attempt in job.attempts]
    assert retries_deleted or failures.Deleted not in kinds[:-1], kinds
    retried = (failures.Deleted, failures.LaunchRefused)
    assert all(failure.platform or failure in retried for failure in kinds[:-1]), kinds
    if kinds and kinds[-1] is failures.Evicted and job.key not in cluster.cancelled:
        assert job.state is JobState.FAILED
        assert kinds.count(failures.Evicted) == 3 or len(kinds) >= 5, kinds
