"""The answers of the service: paths, credentials, refusals, shapes."""

import base64
import http.client
import json
import re
import socket
import threading

import pytest

from canfar_batch.local import LIMIT_RANGE, Image, identity

IMAGE = "images.canfar.net/skaha/astroml:latest"
CREATE = {"name": "job", "image": IMAGE, "cmd": "true"}


# Who may ask


def test_without_credential_the_service_speaks_of_anonymous(client):
    answer = client.ask("GET", "/session", token="")
    assert (answer.status, answer.text) == (400, "cannot get group memberships for anonymous\n")
    assert ("www-authenticate", "Bearer") in answer.headers


def test_an_unknown_token_is_refused_with_one_challenge(client):
    answer = client.ask("GET", "/context", token="wrong")
    text = "Cannot validate token using user info endpoint"
    assert (answer.status, answer.text) == (401, text)
    challenges = [value for name, value in answer.headers if name.lower() == "www-authenticate"]
    assert challenges == [f'Bearer error="invalid_token", error_description="{text}"']
    assert answer.header("x-vo-authenticated") is None


def test_a_token_that_is_not_ascii_is_refused_too(client):
    assert client.ask("GET", "/context", token="é").status == 401


@pytest.mark.parametrize(
    ("claims", "text"),
    [
        ({"iss": "https://elsewhere.example/"}, "Token from untrusted issuer: https://elsewhere.example/ ignored"),
        ({"iss": identity.ISSUER, "exp": 1}, "Token has expired"),
        ({"iss": identity.ISSUER, "exp": 1 << 40}, "Invalid JWT token"),
    ],
)
def test_a_json_web_token_is_refused_for_its_claims(client, claims, text):
    token = f"e30.{base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip('=')}.x"
    answer = client.ask("GET", "/session", token=token)
    assert (answer.status, answer.text) == (401, text)


def test_other_users_see_and_stop_nothing(start, client_of):
    platform = start(others={"other": "token-of-other"})
    client = client_of(platform)
    id_ = client.sh("echo mine;sleep 60")
    client.wait(id_, "Running")

    def ask(method, path, form=None):
        return client.ask(method, path, form, token="token-of-other")

    assert ask("GET", "/session").json == []
    assert ask("GET", f"/session/{id_}").status == 404
    assert ask("GET", f"/session/{id_}?view=logs").body == b""
    assert ask("GET", f"/session/{id_}?view=events").status == 404
    assert ask("POST", f"/session/{id_}", {"action": "renew"}).status == 400
    assert ask("DELETE", f"/session/{id_}").status == 200
    assert client.status(id_) == "Running"
    assert [one["userid"] for one in ask("GET", "/session?view=all").json] == ["local"]


def test_success_and_failure_name_the_user(client):
    assert client.ask("GET", "/session").header("x-vo-authenticated") == "local"
    assert client.ask("GET", "/session/nosuch12").header("x-vo-authenticated") == "local"


@pytest.mark.parametrize("path", ["/capabilities", "/availability"])
def test_vosi_pages_need_no_credential(client, path):
    answer = client.ask("GET", path, token="", base="/skaha")
    assert answer.status == 200
    assert answer.header("content-type") == "text/xml"
    assert client.ask("GET", f"{path}/", token="", base="/skaha").status == 404


def test_capabilities_name_the_sessions_behind_a_proxy(client):
    text = client.ask("GET", "/capabilities", base="/skaha").text
    assert text.count("https://127.0.0.1/skaha/v1/session</accessURL>\r\n") == 3  # one for each way to log in


def test_the_root_shows_a_page(client):
    for path in ("/skaha/", "/skaha/index.html"):
        answer = client.ask("GET", path, token="", base="")
        assert (answer.status, answer.header("content-type")) == (200, "text/html")
    assert client.ask("GET", "/skaha", token="", base="").header("location") == "/skaha/"


def test_other_hosts_are_refused(client):
    for host, status in (("evil.example.org", 403), ("localhost1", 403), ("localhost:1", 200), ("[::1]", 200)):
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
        ("POST", "/context", "GET"),
        ("DELETE", "/image", "GET"),
    ],
)
def test_methods_that_a_resource_lacks_are_unsupported(client, method, path, allow):
    answer = client.ask(method, path)
    assert (answer.status, answer.text, answer.header("allow")) == (405, f"unsupported: HTTP {method}\n", allow)
    assert answer.header("content-type") == "text/plain;charset=ISO-8859-1"


@pytest.mark.parametrize(("method", "status"), [("PATCH", 501), ("BREW", 501), ("TRACE", 405)])
def test_methods_unknown_to_servlets_get_a_page_of_tomcats(client, method, status):
    answer = client.ask(method, "/session")
    assert (answer.status, answer.header("content-type")) == (status, "text/html;charset=utf-8")
    assert "Apache Tomcat" in answer.text


def test_options_lists_the_methods_of_servlets(client):
    answer = client.ask("OPTIONS", "/session")
    assert (answer.status, answer.header("allow")) == (200, "GET, HEAD, POST, PUT, DELETE, OPTIONS")


@pytest.mark.parametrize("path", ["/session/%zz", "/session/{x}", "/session/x%2Fy", f"/session?x={'y' * 9000}"])
def test_malformed_targets_get_a_page_of_tomcats(client, path):
    answer = client.ask("GET", path)
    assert (answer.status, answer.header("content-type")) == (400, "text/html;charset=utf-8")


def test_paths_are_normalised(client):
    assert client.ask("GET", "/session;x=1").json == []
    assert client.ask("GET", "/session/../context").json["cores"]
    assert client.ask("GET", "/session/..").status == 404
    assert client.ask("GET", "/context/below").status == 200


def test_capabilities_answer_head(client):
    answer = client.ask("HEAD", "/capabilities", base="/skaha")
    assert (answer.status, answer.body) == (200, b"")


def test_unknown_places_answer_as_tomcat_and_the_proxy_do(client):
    assert client.ask("GET", "/session", base="/skaha/v0").header("content-type").startswith("text/html")
    assert client.ask("GET", "/elsewhere", base="").text == "404 page not found\n"


def test_a_path_may_be_too_long(client):
    answer = client.ask("GET", "/session/a/b/c/d")
    assert (answer.status, answer.text) == (400, "Invalid request: a/b/c/d\n")


@pytest.mark.parametrize(
    ("method", "path", "form", "status", "text"),
    [
        ("GET", "/session/?view=logs", None, 400, "canfar.net/id label value cannot be blank\n"),
        ("GET", "/session/%20?view=events", None, 400, "canfar.net/id label value cannot be blank\n"),
        ("GET", "/session/%20", None, 404, "session   not found\n"),
        ("POST", "/session/", {"action": "renew"}, 400, "canfar.net/id label value cannot be blank\n"),
        ("POST", "/session/", {"action": "stop"}, 400, "unrecognized action\n"),
        ("GET", "/session/-x/app/y", None, 400, "canfar.net/id label value must match Kubernetes label value syntax\n"),
        ("DELETE", "/session/-x", None, 200, ""),
        ("DELETE", "/session/-x/app", None, 400, "Missing app ID\n"),
        (
            "DELETE",
            "/session/-x/app/y",
            None,
            400,
            "canfar.net/id label value must match Kubernetes label value syntax\n",
        ),
        ("DELETE", f"/session/x/app/{'y' * 64}", None, 400, "canfar.net/app-id label value exceeds 63 characters\n"),
        ("POST", "/session/x/app/y", {}, 400, "Missing parameter 'image'\n"),
        ("POST", "/session/x/app/y", {"image": "i"}, 400, "Cannot modify an existing app.\n"),
        ("POST", "/session/x/app", {"image": "elsewhere/i"}, 404, "session x not found\n"),
        ("POST", "/session/x/app", {"image": "i", "cores": "77"}, 400, "Invalid value for 'cores': 77\n"),
        ("POST", "/session/-x/app", {"image": "i", "ram": "77"}, 400, "Invalid value for 'ram': 77\n"),
    ],
)
def test_empty_and_malformed_ids_are_judged_by_what_looks_for_them(client, method, path, form, status, text):
    answer = client.ask(method, path, form)
    assert (answer.status, answer.text) == (status, text)


def test_a_trailing_slash_shows_some_session(client):
    assert client.ask("GET", "/session/").text == "session  not found\n"
    id_ = client.launch("true")
    assert client.ask("GET", "/session/").json["id"] == id_
    assert client.ask("POST", "/session/", CREATE).text == "Cannot modify an existing session\n"
    assert client.ask("DELETE", "/session/").status == 200
    assert client.show(id_)["id"] == id_


def test_a_slash_after_an_id_changes_nothing(client):
    id_ = client.sh("sleep 60")
    assert client.ask("GET", f"/session/{id_}/").json["id"] == id_
    assert client.ask("DELETE", f"/session/{id_}/").status == 200
    assert client.ask("GET", f"/session/{id_}").status == 404


def test_all_sessions_cannot_be_killed(client):
    answer = client.ask("DELETE", "/session")
    assert (answer.status, answer.text) == (400, "Cannot kill all sessions.\n")


def test_ids_that_are_not_labels_are_refused(client):
    for id_ in ("-abc", "a%20b", "x" * 64):
        answer = client.ask("GET", f"/session/{id_}")
        assert answer.status == 400
        assert answer.text.startswith("canfar.net/id label value")


def test_desktop_applications_do_not_exist(client):
    for path in ("/session/abc/logs", "/session/abc/stats"):
        assert client.ask("GET", path).json == []
    assert client.ask("GET", "/session/abc/app/x").text == "desktop app with session abc and app ID x was not found\n"
    assert client.ask("DELETE", "/session/abc/app").text == "Missing app ID\n"
    assert client.ask("POST", "/session/abc/app", {"image": IMAGE}).text == "session abc not found\n"
    assert client.ask("POST", "/session/abc/app/x", {"image": IMAGE}).text == "Cannot modify an existing app.\n"


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
        ({"name": ""}, "Missing parameter 'name'"),
        ({"image": " "}, "image is required"),
        (
            {"image": "docker.io/a/b", "name": None},
            "session image 'docker.io/a/b' must come from one of [images.canfar.net]",
        ),
        ({"type": " Foo ", "cores": "99"}, "Invalid session type:  Foo "),
        ({"cores": "99", "ram": "99", "name": "a_b"}, "Invalid value for 'cores': 99"),
        ({"gpus": "0", "name": "a_b"}, "name can only contain alpha-numeric chars and '-'"),
        ({"gpus": "0"}, "Invalid value for 'gpus': 0"),
        ({"gpus": "1.0"}, "Invalid value for 'gpus': 1.0"),
        ({"gpus": " 1"}, "Invalid value for 'gpus':  1"),
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
        ({"args": "$HOME"}, "Illegal group reference"),
        ({"env": "A=${X}"}, "No group with name {X}"),
    ],
)
def test_refused_creates_say_why(client, changes, text):
    form = {key: value for key, value in {**CREATE, **changes}.items() if value is not None}
    answer = client.ask("POST", "/session", form)
    assert (answer.status, answer.text) == (400, text + "\n")
    assert client.list() == []


@pytest.mark.parametrize("cores", ["2.9", " 2 ", "2d", "2e0", "2.", "0x1p1", "", " "])
def test_cores_are_a_java_double_whose_integer_part_counts(client, cores):
    assert client.create("true", cores=cores).status == 200


@pytest.mark.parametrize(
    "changes", [{"args": "y"}, {"env": "=b"}, {"name": "y"}, {"name": "0o17"}, {"name": "a-"}, {"name": "a" * 64}]
)
def test_a_job_that_kubectl_refuses_is_not_found(client, changes):
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


def test_gpus_have_no_effect_on_a_platform_without(client):
    for gpus in ("1", "", " "):
        assert client.show(client.launch("true", gpus=gpus))["requestedGPUCores"] == "0"


def test_gpus_are_counted_on_a_platform_with_some(start, client_of):
    client = client_of(start(gpus=2))
    assert client.show(client.launch("true", gpus="1"))["requestedGPUCores"] == "1"


def test_headers_beyond_eight_kibibytes_are_refused(client):
    assert client.ask("POST", f"/session?args={'x' * 9000}").status == 400


def test_a_parameter_in_two_spellings_is_refused(client):
    form = {**CREATE, "NAME": "other"}
    answer = client.ask("POST", "/session", form)
    assert (answer.status, answer.text, answer.header("x-vo-authenticated")) == (400, "null\n", None)
    assert client.ask("GET", "/session?type=headless&TYPE=headless").status == 400


def test_a_multipart_that_is_cut_short_is_an_error(client):
    answer = client.ask(
        "POST",
        "/session",
        body=b"--sep\r\nContent-Dispo",
        headers={"Content-Type": "multipart/form-data; boundary=sep"},
    )
    assert (answer.status, answer.text) == (500, "unexpected exception: java.io.IOException: failed to read input")


def test_images_that_are_not_listed_need_credentials(start, client_of):
    client = client_of(start(images=[Image(IMAGE)]))
    assert client.create("true").status == 200
    private = {**CREATE, "image": "images.canfar.net/mine/own:1"}
    assert client.ask("POST", "/session", private).text.startswith(
        "No authentication provided for unknown or private image."
    )
    form = "Invalid input.  Must be in form of username:secret\n"
    for secret, text in (("ada:s3:cret", form), ("ada", form), ("ada:", form), (":s3cret", "username is required.\n")):
        header = {"x-skaha-registry-auth": base64.b64encode(secret.encode()).decode()}
        assert client.ask("POST", "/session", private, headers=header).text == text
    header = {"x-skaha-registry-auth": "ada:s3cret"}
    assert client.ask("POST", "/session", private, headers=header).text == (
        "Length of Base64 encoded input string is not a multiple of 4.\n"
    )
    header = {"x-skaha-registry-auth": base64.b64encode(b"ada:s3cret").decode()}
    assert client.ask("POST", "/session", private, headers=header).status == 200


def test_a_refused_image_is_logged_with_the_nearest_name(client, caplog):
    assert client.create("true", image="images.canfar.net/skaha/astrml:latest").status == 400
    assert f"the nearest name is {IMAGE}" in caplog.text


@pytest.mark.parametrize(
    ("strict", "image", "status"),
    [
        (True, "images.canfar.net/mine/own:1", 400),
        (False, "images.canfar.net/skaha/astrml:latest", 200),
        ("typos", "images.canfar.net/mine/own:1", 200),
        ("typos", "images.canfar.net/skaha/astroml:2024", 200),
        ("typos", "images.canfar.net/skaha/astrml:latest", 400),
        ("typos", "images.canfar.net/skaha/astroml:lates", 400),
    ],
)
def test_the_switch_for_images_that_are_not_listed(start, client_of, strict, image, status):
    assert client_of(start(strict_images=strict)).create("true", image=image).status == status


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
        ("?type=", 0),
        ("?status=", 0),
        ("?view=interactive&type=headless", 0),
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
    text = "No active job for user PosixPrincipal [uidNumber=10000,10000,local] with session nosuch12\n"
    assert (answer.status, answer.text) == (400, text)


def test_renewing_extends_a_deadline_that_is_near(start, client_of):
    client = client_of(start(deadline=3600))
    id_ = client.sh("sleep 60")
    client.wait(id_, "Running")
    before = client.show(id_)["expiryTime"]
    assert client.ask("POST", f"/session/{id_}", {"action": "renew"}).status == 200
    assert client.show(id_)["expiryTime"] > before


def test_the_context_has_the_options_that_creates_accept(client):
    context = client.ask("GET", "/context").json
    assert context["cores"]["options"] == list(range(1, 17))
    assert context["memoryGB"]["options"][:5] == [1, 2, 4, 6, 8]
    assert context["memoryGB"]["options"][-1] == 192
    assert context["maxInteractiveSessions"] == "5"


def test_images_are_listed_by_type(client):
    images = client.ask("GET", "/image?type=headless").json
    assert {"id", "types", "digest"} == images[0].keys()
    assert IMAGE in [image["id"] for image in images]
    assert all("headless" in image["types"] for image in images)
    assert client.ask("GET", "/image?type=sleepy").text == "unknown type: sleepy\n"
    assert client.ask("GET", "/repository").json == ["images.canfar.net"]


def test_statistics_need_a_backend(client):
    answer = client.ask("GET", "/session?view=stats")
    assert (answer.status, answer.text, answer.header("retry-after")) == (503, "temporarily unavailable: null\n", "30")


def test_statistics_sum_up_the_requests(start, client_of):
    platform = start(stats=True)
    client = client_of(platform)
    platform.hold()
    client.launch("true", cores=2, ram=8)
    assert client.ask("GET", "/session?view=stats").json["cores"]["requestedCPUCores"] == 0
    client.wait(client.launch(type="notebook", cores=2, ram=8), "Running")
    stats = client.ask("GET", "/session?view=stats").json
    assert stats["cores"]["requestedCPUCores"] == 2
    assert stats["ram"]["requestedRAM"] == "8.59G"
    assert stats["cores"]["maxCPUCores"] == {"cpuCores": 8.0, "withRam": "32Gi"}
    assert stats["ram"]["maxRAM"] == {"ram": "32Gi", "withCPUCores": 8.0}


# A cluster with a LimitRange


def test_a_limit_range_shows_its_defaults(start, client_of):
    context = client_of(start(limits=LIMIT_RANGE)).ask("GET", "/context").json
    assert context["cores"] == {"default": 1, "defaultLimit": 8, "options": list(range(1, 13)), "defaultRequest": 1}
    assert context["memoryGB"]["options"] == list(range(1, 97))
    assert (context["gpus"], context["maxInteractiveSessions"]) == ({"options": [1, 2, 3, 4]}, 5)


def test_above_the_maximum_by_a_fraction_a_job_waits_for_ever(start, client_of):
    client = client_of(start(limits=LIMIT_RANGE, cores=64, ram=256))
    assert client.create("true", cores="13").text == "Invalid value for 'cores': 13\n"
    id_ = client.launch("true", cores="12.5", ram="4")
    shown = client.show(id_)
    assert (shown["status"], "startTime" in shown) == ("Pending", True)
    assert client.ask("GET", f"/session/{id_}?view=events").status == 404
    assert client.logs(id_) == ""
    assert client.wait(client.launch("true", cores="12", ram="4")) == "Completed"
    assert client.status(id_) == "Pending"


def test_ram_that_is_not_a_whole_number_of_bytes_is_shown_a_thousandfold(start, client_of):
    client = client_of(start(limits=LIMIT_RANGE, cores=64, ram=256))
    assert client.show(client.launch("true", ram="95.9"))["requestedRAM"] == "102971.84"


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


def test_requests_are_on_record(client, platform):
    client.launch("echo", "a b", name="one", env=["A=1", "B=2"])
    client.create("echo", "$")
    asked = platform.requests.recent[0]
    assert (asked.method, asked.path, asked.kind, asked.status) == ("POST", "/skaha/v1/session", "create", 200)
    assert asked.fields["env"] == ["A=1", "B=2"]
    assert platform.requests.counts["create"] == 2
    assert platform.requests.accepted == {"one": 1}
