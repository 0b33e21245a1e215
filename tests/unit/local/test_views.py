"""How containers are shown."""

import datetime as dt
import json

import pytest

from canfar_batch.local import views
from canfar_batch.local.containers import COMPLETED, RUNNING, Container, Event, Order, Resources


def container(**changes):
    order = Order("abc12345", "n", "headless", "images.canfar.net/skaha/astroml:latest", resources=Resources(**changes))
    return Container(order, "skaha-headless-ada-abc12345", "ada")


@pytest.mark.parametrize(
    ("second", "shown"), [(0, "2025-04-10T15:45Z"), (1, "2025-04-10T15:45:01Z"), (59, "2025-04-10T15:45:59Z")]
)
def test_java_leaves_zero_seconds_out(second, shown):
    assert views.java_time(dt.datetime(2025, 4, 10, 15, 45, second, tzinfo=dt.timezone.utc)) == shown


def test_the_expiry_time_always_has_seconds():
    one = container()
    one.started = dt.datetime(2025, 4, 10, 15, 45, tzinfo=dt.timezone.utc)
    shown = views.session(one, "http://x", {})
    assert (shown["startTime"], shown["expiryTime"]) == ("2025-04-10T15:45Z", "2025-04-24T15:45:00Z")


@pytest.mark.parametrize(("gib", "gb"), [(4, "4.29"), (8, "8.59"), (16, "17.18")])
def test_requested_ram_is_shown_in_decimal_gigabytes(gib, gb):
    assert views.session(container(ram=gib, fixed=True), "", {})["requestedRAM"] == gb


def test_flexible_sessions_show_no_requests_and_pending_ones_no_times():
    shown = views.session(container(), "", {})
    assert not {"requestedRAM", "requestedCPUCores", "startTime", "expiryTime", "ramInUse"} & shown.keys()
    assert (shown["isFixedResources"], shown["connectURL"], shown["requestedGPUCores"]) == (False, "", "0")


@pytest.mark.parametrize(("cores", "shown"), [(2.0, "2"), (0.5, "0.500"), (2.9, "2.900")])
def test_requested_cores_are_shown_as_text(cores, shown):
    assert views.session(container(cores=cores, fixed=True), "", {})["requestedCPUCores"] == shown


def test_columns_of_events_are_padded():
    late = dt.datetime(2025, 4, 10, 15, 45, tzinfo=dt.timezone.utc)
    table = views.event_table([Event("Normal", "Scheduled", "to a", None), Event("Warning", "Failed", "b", late)])
    assert table == (
        "TYPE      REASON      MESSAGE   FIRST-TIME             LAST-TIME\n"
        "Normal    Scheduled   to a      <nil>                  <nil>\n"
        "Warning   Failed      b         2025-04-10T15:45:00Z   2025-04-10T15:45:00Z\n"
    )


def test_no_events_are_called_none():
    assert views.event_table([]) == "<none>\n"


def test_the_printed_json_follows_every_change():
    one, shown = container(), views.Shown("http://x")
    assert json.loads(shown.one(one))["status"] == "Pending"
    one.status = RUNNING
    assert json.loads(shown.many([one])[0])["status"] == "Running"
    one.status = COMPLETED
    assert json.loads(shown.one(one))["status"] == "Completed"
