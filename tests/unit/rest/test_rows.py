"""Rows of a list: lenient about values, strict about rows, and parsed when used."""

import copy
import pickle
from datetime import datetime, timedelta, timezone

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from canfar_batch.records import ContainerInfo, Phase
from canfar_batch.rest.rows import parse_cores, parse_phase, parse_row, parse_rows, parse_time

HEADLESS = {
    "id": "abcd1234", "userid": "ann", "runAsUID": "1", "runAsGID": "1", "supplementalGroups": [1], "type": "headless",
    "image": "images.canfar.net/skaha/x:1", "status": "Running", "name": "job-1", "connectURL": "",
    "isFixedResources": True, "requestedGPUCores": "0", "requestedRAM": "4.29", "requestedCPUCores": "2",
    "startTime": "2025-04-10T15:45Z", "expiryTime": "2025-04-24T15:45:00Z", "ramInUse": "1.07",
    "cpuCoresInUse": "0.500",
}  # fmt: skip


def listed(*entries):
    return parse_rows(list(entries))


def test_row_of_the_newest_release_is_read_whole():
    (container,) = listed(HEADLESS)
    assert (container.id, container.name, container.phase, container.status) == (
        "abcd1234",
        "job-1",
        Phase.RUNNING,
        "Running",
    )
    assert container.started_at == datetime(2025, 4, 10, 15, 45, tzinfo=timezone.utc)
    assert container.expires_at - container.started_at == timedelta(days=14)
    assert (container.cores, container.ram, container.gpus, container.cores_in_use) == (2.0, 4.0, 0, 0.5)
    assert container.ram_in_use == pytest.approx(0.9965, abs=1e-4)


def test_row_of_an_old_release_is_read():
    nothing = dict.fromkeys(("startTime", "expiryTime", "ramInUse", "cpuCoresInUse", "requestedGPUCores"), "<none>")
    (container,) = listed({**HEADLESS, **nothing, "requestedRAM": "4G", "status": "Succeeded"})
    assert (container.phase, container.ram, container.started_at, container.gpus) == (Phase.COMPLETED, 4.0, None, 0)


def test_fields_other_than_the_id_may_be_missing_or_odd():
    (bare,) = listed({"id": "abcd1234"})
    assert (bare.phase, bare.cores, bare.ram, bare.name) == (Phase.OTHER, None, None, "")
    (odd,) = listed({name: ["?"] for name in HEADLESS} | {"id": "abcd1234"})
    assert (odd.started_at, odd.cores, odd.ram, odd.gpus) == (None, None, None, 0)


@given(
    st.dictionaries(
        st.sampled_from(list(HEADLESS)), st.none() | st.text() | st.integers() | st.floats() | st.booleans()
    )
)
def test_no_value_of_any_field_breaks_the_list(values):
    odd, good = listed({**HEADLESS, **values, "id": "zzzz9999"}, HEADLESS)
    assert repr(odd)
    assert good.phase is Phase.RUNNING


def test_row_without_an_id_is_left_out_and_logged(caplog):
    assert [each.id for each in listed({"status": "Running", "type": "notebook"}, HEADLESS)] == ["abcd1234"]
    assert "without an id" in caplog.text


@pytest.mark.parametrize(
    ("word", "phase"),
    [
        ("Pending", Phase.PENDING), ("running", Phase.RUNNING), ("Completed", Phase.COMPLETED),
        ("Succeeded", Phase.COMPLETED), ("Failed", Phase.FAILED), ("Failed (BackoffLimitExceeded)", Phase.FAILED),
        ("Error", Phase.FAILED), ("Terminating", Phase.OTHER), ("Unknown", Phase.OTHER), ("", Phase.OTHER),
        ("FailureTarget (x)", Phase.OTHER), ("Failing", Phase.OTHER), ("Complete", Phase.COMPLETED),
    ],
)  # fmt: skip
def test_status_words_of_all_releases_are_known(word, phase):
    assert parse_phase(word) is phase


@pytest.mark.parametrize("gib", [1, 2, 4, 6, 8, 10, 12, 16, 24, 28, 32, 44, 48, 56, 80, 92, 112, 140, 170, 192, 512])
def test_requested_ram_is_what_was_asked_for(gib):
    (container,) = listed({**HEADLESS, "requestedRAM": f"{gib * 2**30 / 1e9:.2f}"})
    assert container.ram == gib


@pytest.mark.parametrize(
    ("text", "cores"),
    [("2", 2), ("0.500", 0.5), ("500m", 0.5), ("3123456789n", 3.123456789), (3, 3), ("x", None), ("", None)],
)
def test_cores_come_in_several_units(text, cores):
    assert parse_cores(text) == (None if cores is None else pytest.approx(cores))


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2025-04-10T15:45Z", datetime(2025, 4, 10, 15, 45, tzinfo=timezone.utc)),
        ("2025-04-10T15:45:01.123456789Z", datetime(2025, 4, 10, 15, 45, 1, 123456, tzinfo=timezone.utc)),
        ("2025-04-10T08:45-07:00", datetime(2025, 4, 10, 15, 45, tzinfo=timezone.utc)),
        ("2025-04-10T15:45", datetime(2025, 4, 10, 15, 45, tzinfo=timezone.utc)),
        ("0001-01-01T00:00+14:00", None), ("yesterday", None), (None, None), (5, None), ("", None),
    ],
)  # fmt: skip
def test_times_are_read_leniently(text, time):
    assert parse_time(text) == time


VALUES = st.none() | st.text() | st.integers() | st.floats(allow_nan=False) | st.booleans() | st.just("<none>")


@given(
    st.dictionaries(st.sampled_from(list(HEADLESS)), VALUES),
    st.permutations([field.name for field in attrs.fields(ContainerInfo)]),
)
def test_lazy_container_equals_the_one_parsed_at_once_whatever_is_read_first(values, order):
    row = {**HEADLESS, **values, "id": "abcd1234"}
    (lazy,) = listed(row)
    eager = parse_row(row)
    for name in order:
        assert getattr(lazy, name) == getattr(eager, name)
    assert lazy == eager
    assert eager == lazy
    assert hash(lazy) == hash(eager)


def test_lazy_container_is_a_value_like_any_other():
    (lazy,) = listed(HEADLESS)
    assert lazy == listed(HEADLESS)[0] != listed({**HEADLESS, "status": "Failed"})[0]
    assert lazy != "abcd1234"
    for same in (copy.copy(lazy), copy.deepcopy(lazy), pickle.loads(pickle.dumps(lazy))):
        assert same == lazy
    assert attrs.evolve(lazy, phase=Phase.FAILED).phase is Phase.FAILED
    assert "job-1" in repr(lazy)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        lazy.name = "other"
    with pytest.raises(AttributeError, match="has no attribute 'nmae'"):
        _ = lazy.nmae


def test_row_that_occurs_twice_counts_once():
    assert [each.id for each in listed(HEADLESS, dict(HEADLESS))] == ["abcd1234"]


@pytest.mark.parametrize(
    "entries", [[5], [None], [[]], [HEADLESS, "abcd1234"], [HEADLESS, {**HEADLESS, "status": "Completed"}]]
)
def test_list_of_something_else_or_with_a_contradiction_is_refused(entries):
    with pytest.raises(ValueError):
        parse_rows(entries)
