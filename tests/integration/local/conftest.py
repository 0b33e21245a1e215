"""A platform for each test, and a client that knows nothing but HTTP."""

import dataclasses
import http.client
import json
import urllib.parse

import pytest
from waiting import until

from canfar_batch.local import LocalPlatform

IMAGE = "images.canfar.net/skaha/astroml:latest"
FORM = "application/x-www-form-urlencoded; charset=UTF-8"
FINAL = {"Completed", "Failed"}


def quoted(text):
    """One argument, escaped for every step between here and the container."""
    text = text.replace("$", "$$")  # for the kubelet
    for char, escape in (("\\", "\\\\"), ('"', '\\"'), (" ", "\\x20"), ("\n", "\\n")):  # for YAML
        text = text.replace(char, escape)
    return text.replace("\\", "\\\\").replace("$", "\\$")  # for Java


@dataclasses.dataclass
class Answer:
    status: int
    body: bytes
    headers: list[tuple[str, str]]

    @property
    def text(self):
        return self.body.decode()

    @property
    def json(self):
        assert self.header("content-type") == "application/json"
        return json.loads(self.body)

    def header(self, name):
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)


class Client:
    def __init__(self, platform):
        self.platform = platform
        self.port = urllib.parse.urlsplit(platform.url).port

    def ask(self, method, path, form=None, *, token=None, headers=None, body=None, base="/skaha/v1"):
        sent = {"Authorization": f"Bearer {self.platform.token if token is None else token}"} if token != "" else {}
        if form is not None:
            body, sent["Content-Type"] = urllib.parse.urlencode(form, doseq=True), FORM
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, base + path, body, {**sent, **(headers or {})})
            response = connection.getresponse()
            return Answer(response.status, response.read(), response.getheaders())
        finally:
            connection.close()

    def create(self, cmd=None, args=None, **fields):
        form = {"name": "job", "image": IMAGE, **fields}
        form |= {key: value for key, value in (("cmd", cmd), ("args", args)) if value is not None}
        return self.ask("POST", "/session", form)

    def launch(self, cmd=None, args=None, **fields):
        answer = self.create(cmd, args, **fields)
        assert answer.status == 200, answer.text
        return answer.text.strip()

    def sh(self, script, **fields):
        """Launch a shell script, written as it shall arrive."""
        return self.launch("sh", f"-c {quoted(script)}", **fields)

    def python(self, code, **fields):
        """Launch Python code, written as it shall arrive."""
        return self.launch("python", f"-c {quoted(code)}", **fields)

    def show(self, id_):
        return self.ask("GET", f"/session/{id_}").json

    def status(self, id_):
        return self.show(id_)["status"]

    def logs(self, id_):
        return self.ask("GET", f"/session/{id_}?view=logs").text

    def events(self, id_):
        return self.ask("GET", f"/session/{id_}?view=events").text

    def list(self, query=""):
        return self.ask("GET", f"/session{query}").json

    def wait(self, id_, status=None):
        """Wait until the job has ended, or is in *status*, and return its status."""
        wanted = FINAL if status is None else {status}
        return until(lambda: (now := self.status(id_)) in wanted and now)


@pytest.fixture
def start(request):
    """Start platforms that stop with the test."""
    platforms = []

    def started(**settings):
        platform = LocalPlatform(**{"cores": 8, "ram": 64, "termination_grace": 0.5, **settings}).start()
        platforms.append(platform)
        return platform

    yield started
    for platform in platforms:
        platform.stop()


@pytest.fixture
def platform(start):
    return start()


@pytest.fixture
def client(platform):
    return Client(platform)


@pytest.fixture
def client_of():
    return Client


@pytest.fixture
def soon():
    return until
