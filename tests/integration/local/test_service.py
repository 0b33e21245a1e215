"""What the service answers: paths, credentials, refusals, shapes."""

import base64
import http.client
import json
import re
import socket
import threading

import pytest

from canfar_batch.local import Image

IMAGE = "images.canfar.net/skaha/astroml:latest"
CREATE = {"name": "job", "image": IMAGE, "cmd": "true"}


# Who may ask


def test_without_credential_the_service_speaks_of_anonymous(client):
    answer = client.ask("GET", "/session", token="")
    assert (answer.status, answer.text) == (400, "cannot get group memberships for anonymous\n")
    assert ("www-authenticate", "Bearer") in answer.headers


def test_a_wrong_token_is_invalid(client):
    answer = client.ask("GET", "/context", token="wrong")
    assert (answer.status, answer.text) == (401, "Invalid JWT token")
    assert answer.header("www-authenticate") == 'Bearer error="invalid_token", error_description="Invalid JWT token"'
    assert answer.header("x-vo-authenticated") is None


def test_a_token_that_is_no_ascii_is_invalid_too(client):
    assert client.ask("GET", "/context", token="é").status == 401


def test_success_and_failure_tell_who_asked(client):
    assert client.ask("GET", "/session").header("x-vo-authenticated") == "local"
    assert client.ask("GET", "/session/nosuch12").header("x-vo-authenticated") == "local"


@pytest.mark.parametrize("path", ["/capabilities", "/availability"])
def test_vosi_pages_need_no_credential(client, path):
    answer = client.ask("GET", path, token="", base="/skaha")
    assert answer.status == 200
    assert answer.header("content-type") == "text/xml"


def test_capabilities_lead_to_the_sessions(client, platform):
    assert f"{platform.url}/session</accessURL>" in client.ask("GET", "/capabilities", base="/skaha").text


def test_other_hosts_are_refused(client):
    for host, status in (("evil.example.org", 403), ("localhost:1", 200), ("[::1]", 200)):
        assert client.ask("GET", "/session", headers={"Host": host}).status == status


def test_only_loopback_listens(client):
    with socket.socket() as probe:
        probe.settimeout(5)
        assert probe.connect_ex((_own_address(), client.port)) != 0


def _own_address():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # a datagram socket sends nothing by connecting
        except OSError:
            pytest.skip("this machine has no address but loopback")
        return probe.getsockname()[0]


# Where requests go


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PUT", "/session", "GET, POST, DELETE"),
        ("PATCH", "/session/abc", "GET, POST, DELETE"),
        ("POST", "/context", "GET"),
        ("DELETE", "/image", "GET"),
    ],
)
def test_methods_that_do_not_exist_are_unsupported(client, method, path, allow):
    answer = client.ask(method, path)
    assert (answer.status, answer.text, answer.header("allow")) == (405, f"unsupported: HTTP {method}\n", allow)


def test_capabilities_answer_head(client):
    answer = client.ask("HEAD", "/capabilities", base="/skaha")
    assert (answer.status, answer.body) == (200, b"")


def test_unknown_places_answer_as_tomcat_and_the_proxy_do(client):
    assert client.ask("GET", "/session", base="/skaha/v0").header("content-type").startswith("text/html")
    assert client.ask("GET", "/elsewhere", base="").text == "404 page not found\n"


def test_any_second_segment_asks_for_desktop_applications(client):
    for path in ("/session/abc/logs", "/session/abc/stats"):
        assert client.ask("GET", path).json == []


def test_a_path_may_be_too_long(client):
    answer = client.ask("GET", "/session/a/b/c/d")
    assert (answer.status, answer.text) == (400, "Invalid request: /skaha/v1/session/a/b/c/d\n")


def test_a_trailing_slash_shows_some_session(client):
    assert client.ask("GET", "/session/").text == "session  not found\n"
    id_ = client.launch("true")
    assert client.ask("GET", "/session/").json["id"] == id_
    assert client.ask("POST", "/session/", CREATE).text == "Cannot modify an existing session\n"
    assert client.ask("DELETE", "/session/").status == 200
    assert client.show(id_)["id"] == id_


def test_all_sessions_cannot_be_killed(client):
    answer = client.ask("DELETE", "/session")
    assert (answer.status, answer.text) == (400, "Cannot kill all sessions.\n")


def test_ids_that_are_no_labels_are_refused(client):
    for id_ in ("-abc", "a%20b", "x" * 64):
        answer = client.ask("GET", f"/session/{id_}")
        assert answer.status == 400
        assert answer.text.startswith("canfar.net/id label value")


# Creating


def test_the_answer_to_a_create_is_an_id(client):
    answer = client.create("true")
    assert (answer.status, answer.header("content-type")) == (200, "text/plain")
    assert re.fullmatch(r"[a-z][a-z0-9]{7}\n", answer.text)
    assert answer.header("server") == "OpenCADC/cadc-rest"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"image": None}, "Missing parameter 'image'"),
        ({"name": None}, "Missing parameter 'name'"),
        ({"name": "a_b"}, "name can only contain alpha-numeric chars and '-'"),
        ({"name": "a\n"}, "name can only contain alpha-numeric chars and '-'"),
        ({"name": ""}, "name can only contain alpha-numeric chars and '-'"),
        ({"name": "-abc"}, "canfar.net/name label value cannot be blank"),
        ({"image": "docker.io/a/b"}, "session image 'docker.io/a/b' must come from one of [images.canfar.net]"),
        ({"type": "sleepy"}, "Invalid session type: sleepy"),
        ({"cores": "17"}, "Invalid value for 'cores': 17"),
        ({"cores": "0.5"}, "Invalid value for 'cores': 0.5"),
        ({"cores": "two"}, "Invalid value for 'cores': two"),
        ({"cores": "1_0"}, "Invalid value for 'cores': 1_0"),
        ({"cores": "NaN"}, "Invalid value for 'cores': NaN"),
        ({"cores": "Infinity"}, "Invalid value for 'cores': Infinity"),
        ({"ram": "3"}, "Invalid value for 'ram': 3"),
        ({"ram": ""}, "Invalid value for 'ram': "),
        ({"args": "$HOME"}, "Illegal group reference"),
        ({"env": "A=${X}"}, "No group with name {X}"),
    ],
)
def test_refused_creates_say_why(client, changes, text):
    form = {key: value for key, value in {**CREATE, **changes}.items() if value is not None}
    answer = client.ask("POST", "/session", form)
    assert (answer.status, answer.text) == (400, text + "\n")
    assert client.list() == []


@pytest.mark.parametrize("cores", ["2.9", " 2 ", "2d", "2e0", "2."])
def test_cores_are_a_java_double_whose_integer_part_counts(client, cores):
    assert client.create("true", cores=cores).status == 200


@pytest.mark.parametrize(
    "changes", [{"args": "y"}, {"env": "=b"}, {"name": "y"}, {"name": "0o17"}, {"name": "a-"}, {"name": "a" * 64}]
)
def test_what_kubectl_refuses_is_a_job_that_is_not_found(client, changes):
    answer = client.ask("POST", "/session", {**CREATE, **changes})
    assert answer.status == 500
    assert answer.text.startswith(
        "unexpected exception: java.lang.RuntimeException: io.kubernetes.client.openapi.ApiException: Message: "
    )
    assert "HTTP response code: 404" in answer.text
    assert re.search(r'jobs\.batch \\"skaha-headless-local-[a-z][a-z0-9]{7}\\" not found', answer.text)
    assert client.list() == []


def test_quotes_break_the_template(client):
    answer = client.create("true", 'a"b')
    assert answer.status == 500
    assert answer.text.startswith("unexpected exception: while parsing a flow sequence")


def test_json_loses_its_parameters(client):
    answer = client.ask("POST", "/session", headers={"Content-Type": "application/json"}, body=json.dumps(CREATE))
    assert (answer.status, answer.text) == (400, "Missing parameter 'image'\n")


def test_parameters_may_come_in_the_query_of_an_empty_form(client):
    answer = client.ask(
        "POST",
        f"/session?NAME=job&Image={IMAGE}&cmd=true",
        headers={"Content-Type": "application/x-www-form-urlencoded"},
    )
    assert answer.status == 200


def test_names_are_lowercased(client):
    assert client.show(client.launch("true", name="Run-7"))["name"] == "run-7"


def test_gpus_are_ignored_where_there_are_none(client):
    assert client.create("true", gpus="0").status == 200


def test_gpus_are_checked_where_there_are_some(start, client_of):
    client = client_of(start(gpus=2))
    assert client.create("true", gpus="0").text == "Invalid value for 'gpus': 0\n"
    assert client.show(client.launch("true", gpus="1"))["requestedGPUCores"] == "1"


def test_headers_beyond_eight_kibibytes_are_refused(client):
    assert client.ask("POST", f"/session?args={'x' * 9000}").status == 400


def test_images_that_are_not_listed_need_credentials_when_asked_to(start, client_of):
    client = client_of(start(strict_images=True, images=[Image(IMAGE)]))
    assert client.create("true").status == 200
    private = {**CREATE, "image": "images.canfar.net/mine/own:1"}
    assert client.ask("POST", "/session", private).text.startswith(
        "No authentication provided for unknown or private image."
    )
    for secret, status in (("ada:s3cret", 200), ("ada:s3:cret", 400), ("ada", 400)):
        header = {"x-skaha-registry-auth": base64.b64encode(secret.encode()).decode()}
        answer = client.ask("POST", "/session", private, headers=header)
        assert answer.status == status
    assert answer.text == "Invalid input.  Must be in form of username:secret\n"


def test_interactive_sessions_are_limited_and_headless_ones_are_not(start, client_of):
    client = client_of(start(max_interactive=2))
    for _ in range(2):
        id_ = client.launch(type="notebook")
    assert client.create(type="carta").text == "User local has reached the maximum of 2 active sessions.\n"
    assert client.create("true").status == 200
    shown = client.show(id_)
    assert shown["status"] == "Running"
    assert shown["connectURL"].endswith(f"/session/notebook/{id_}/")
    assert [one["type"] for one in client.list("?view=interactive")] == ["notebook", "notebook"]
    client.ask("DELETE", f"/session/{id_}")
    assert client.create(type="carta").status == 200


# Reading


def test_a_session_shows_exactly_the_documented_fields(client):
    flexible, fixed = client.launch("true"), client.launch("true", cores=2, ram=4)
    always = {"id", "userid", "runAsUID", "runAsGID", "supplementalGroups", "image", "type", "status", "name"}
    always |= {"connectURL", "isFixedResources", "requestedGPUCores", "startTime", "expiryTime"}
    for id_ in (flexible, fixed):
        client.wait(id_)
    assert client.show(flexible).keys() == always
    shown = client.show(fixed)
    assert shown.keys() == always | {"requestedRAM", "requestedCPUCores"}
    assert (shown["requestedRAM"], shown["requestedCPUCores"], shown["isFixedResources"]) == ("4.29", "2", True)


def test_lists_are_printed_for_people_and_in_the_order_of_names(client):
    assert client.ask("GET", "/session").text == "[]"
    ids = [client.launch("true") for _ in range(5)]
    answer = client.ask("GET", "/session")
    assert answer.text.startswith('[\n  {\n    "id": "')
    assert [one["id"] for one in answer.json] == sorted(ids)


def test_lists_are_filtered(client):
    id_ = client.launch("true")
    client.wait(id_)
    for query, count in (
        ("?type=headless", 1),
        ("?type=HEADLESS&status=completed", 1),
        ("?status=Running", 0),
        ("?status=nonsense", 0),
        ("?type=notebook", 0),
        ("?view=interactive", 0),
        ("?view=nonsense", 1),
    ):
        assert len(client.list(query)) == count, query
    assert client.list("?view=all")[0].keys() == {"userid", "type", "status", "startTime"}


def test_unknown_ids_answer_as_documented(client):
    assert (client.ask("GET", "/session/nosuch12").status, client.ask("GET", "/session/nosuch12").text) == (
        404,
        "session nosuch12 not found\n",
    )
    assert client.ask("GET", "/session/nosuch12?view=events").text == "session nosuch12 not found.\n"
    logs = client.ask("GET", "/session/nosuch12?view=logs")
    assert (logs.status, logs.body, logs.header("content-type")) == (200, b"", "text/plain")
    deleted = client.ask("DELETE", "/session/nosuch12")
    assert (deleted.status, deleted.body) == (200, b"")


def test_renewing_needs_an_active_job(client):
    id_ = client.sh("sleep 60")
    client.wait(id_, "Running")
    assert client.ask("POST", f"/session/{id_}", {"action": "renew"}).body == b""
    assert client.ask("POST", f"/session/{id_}", {"action": "dance"}).text == "unrecognized action\n"
    assert client.ask("POST", f"/session/{id_}", {}).text == "Cannot modify an existing session\n"
    answer = client.ask("POST", "/session/nosuch12", {"action": "renew"})
    assert (answer.status, answer.text) == (400, "No active job for user local with session nosuch12\n")


def test_the_context_has_the_options_that_creates_accept(client):
    context = client.ask("GET", "/context").json
    assert context["cores"]["options"] == list(range(1, 17))
    assert context["memoryGB"]["options"][:5] == [1, 2, 4, 6, 8]
    assert context["memoryGB"]["options"][-1] == 192
    assert context["maxInteractiveSessions"] == "3"


def test_images_are_listed_by_type(client):
    images = client.ask("GET", "/image?type=headless").json
    assert {"id", "types", "digest"} == images[0].keys()
    assert IMAGE in [image["id"] for image in images]
    assert all("headless" in image["types"] for image in images)
    assert client.ask("GET", "/image?type=sleepy").text == "unknown type: sleepy\n"
    assert client.ask("GET", "/repository").json == ["images.canfar.net"]


def test_stats_count_what_is_asked_for(client, platform):
    platform.hold()
    client.launch("true", cores=2, ram=8)
    assert client.ask("GET", "/session?view=stats").json["cores"]["requestedCPUCores"] == 0
    client.wait(client.launch(type="notebook", cores=2, ram=8), "Running")
    stats = client.ask("GET", "/session?view=stats").json
    assert stats["cores"]["requestedCPUCores"] == 2
    assert stats["ram"]["requestedRAM"] == "8.59G"
    assert stats["cores"]["maxCPUCores"].keys() == {"cpuCores", "withRam"}
    assert stats["ram"]["maxRAM"].keys() == {"ram", "withCPUCores"}


# The connection


def test_many_requests_share_one_connection(client, platform):
    connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=60)
    connection.connect()
    first = connection.sock
    for _ in range(5):
        connection.request("GET", "/skaha/v1/session", headers={"Authorization": f"Bearer {platform.token}"})
        assert connection.getresponse().read() == b"[]"
    assert connection.sock is first
    connection.close()


def test_creates_from_many_threads_all_arrive(client, platform):
    platform.hold()
    threads = [
        threading.Thread(target=lambda n=n: [client.launch("true", name=f"j{n}-{k}") for k in range(5)])
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({one["id"] for one in client.list()}) == 40
    assert set(platform.requests.accepted.values()) == {1}


def test_the_record_tells_what_was_asked(client, platform):
    client.launch("echo", "a b", name="one", env=["A=1", "B=2"])
    client.create("echo", "$")
    asked = platform.requests.recent[0]
    assert (asked.method, asked.path, asked.kind, asked.status) == ("POST", "/skaha/v1/session", "create", 200)
    assert asked.fields["env"] == ["A=1", "B=2"]
    assert platform.requests.counts["create"] == 2
    assert platform.requests.accepted == {"one": 1}
