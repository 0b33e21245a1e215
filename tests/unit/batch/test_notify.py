"""Notifications at the end of a run, and when it is paused."""

import sys

import pytest
from engine import states
from fakes import Fate

from canfar_batch import errors
from canfar_batch.records import JobState

S = JobState


def test_a_function_is_called_with_the_report_at_the_end(world):
    reports = []
    report = world.planned(2).run(progress=False, notify=reports.append)
    assert [one.counts for one in reports] == [report.counts]


def test_a_function_is_called_once_when_the_run_is_paused(world):
    world.platform.fate = lambda request: Fate(code=1)
    reports = []
    with pytest.raises(errors.BatchPaused):
        world.planned(20).run(progress=False, stop_alike=2, notify=reports.append)
    (report,) = reports
    assert report.counts[S.PLANNED] > 0


def test_a_started_batch_notifies_too(world):
    reports = []
    batch = world.planned(1)
    batch.start(notify=reports.append)
    batch.wait(20)
    assert len(reports) == 1


def test_a_command_finds_name_outcome_and_report_in_its_environment(world, tmp_path):
    code = (
        "import os, pathlib; pathlib.Path('told').write_text('|'.join(os.environ['CANFAR_BATCH_' + name] "
        "for name in ('NAME', 'OUTCOME', 'REPORT')))"
    )
    command = [sys.executable, "-c", f"import os; os.chdir({str(tmp_path)!r}); {code}"]
    report = world.planned(1).run(progress=False, notify=command)
    assert (tmp_path / "told").read_text() == f"test|ended|{report}"


@pytest.mark.parametrize(
    "notify", [lambda report: 1 / 0, "no-such-program-here", [sys.executable, "-c", "raise SystemExit(3)"]]
)
def test_a_notification_that_fails_is_logged_and_changes_nothing(world, caplog, notify):
    assert world.planned(1).run(progress=False, notify=notify).ok
    assert "test: the notification" in caplog.text


def test_a_notification_is_a_function_or_a_command(world):
    batch = world.planned(1)
    for wrong in (5, [], [5]):
        with pytest.raises(TypeError, match="give a function of the report, or a command"):
            batch.run(notify=wrong)
    assert states(batch) == [S.PLANNED]


def test_a_text_is_a_command_for_the_shell(world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    world.planned(1).run(progress=False, notify='echo "$CANFAR_BATCH_NAME" >told; echo and more >>told')
    assert (tmp_path / "told").read_text() == "test\nand more\n"
