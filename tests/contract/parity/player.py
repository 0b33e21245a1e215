"""Plays recorded requests against a platform, and compares the answers.

A recording names what differs between deployments by its role: `<id:1>` for the first session that a case made,
`<image>`, `<registry>`, `<user>`, `<token>`, `<time>`. The player puts its own in, and takes them out of the answers.
"""

import http.client
import json
import re
import time
import urllib.parse

HEADERS = ("content-type", "www-authenticate", "retry-after", "allow", "location")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d)?Z")
USE = {"ramInUse", "cpuCoresInUse"}
VARYING = {"runAsUID": "<uid>", "runAsGID": "<uid>", "supplementalGroups": "<gids>"}
PATIENCE = 30.0  #: seconds for a state to come


class Player:
    """A client of one platform that speaks of it in a recording's words."""

    def __init__(self, url, user, tokens, image, registry):
        parts = urllib.parse.urlsplit(url)
        self.host, self.base = parts.netloc, parts.path
        self.user, self.tokens, self.image, self.registry = user, tokens, image, registry
        self.ids = []

    def begin(self):
        """Begin a case: ids are counted from 1 again."""
        self.ids = []

    def finish(self):
        """Delete the sessions of the case."""
        for id in self.ids:
            self.send("DELETE", f"{self.base}/session/{id}", None, [("Authorization", self.bearer("<user>"))])

    def bearer(self, user):
        return f"Bearer {self.tokens[user]}"

    def ask(self, request):
        """Send a recorded request; the answer in the recording's form."""
        sizes = request.get("sizes", {})
        path, query = self.filled(request["path"]), request.get("query")
        if query is not None:
            path += "?" + self.filled(query, quote=True).replace("a", "a" * sizes.get("query", 1))
        headers = [(name, self.header(name, value, request, sizes)) for name, value in request["headers"]]
        body = request.get("body")
        if "form" in request:
            form = [(name, self.filled(value) * sizes.get(name, 1)) for name, value in request["form"]]
            if "more" in request:
                name, value, count = request["more"]
                form += [(name.format(i), value.format(i)) for i in range(count)]
            body = urllib.parse.urlencode(form)
        elif body is not None:
            body = self.filled(body)
        answer = self.send(request["method"], path, None if body is None else body.encode(), headers)
        if answer[0] == 200 and request["method"] == "POST" and re.fullmatch(rb"[a-z][a-z0-9]{7}\n", answer[2]):
            self.ids.append(answer[2].decode().strip())
        return self.seen(*answer)

    def header(self, name, value, request, sizes):
        if value == "<token>":
            return self.bearer(request["as"])
        if "<token>" in value:
            return value.replace("<token>", self.tokens[request["as"] or "<user>"])
        return value * sizes.get(name, 1)

    def send(self, method, path, body, headers, timeout=60):
        connection = http.client.HTTPConnection(self.host, timeout=timeout)
        try:
            connection.putrequest(method, path, skip_accept_encoding=True)
            for name, value in headers:
                connection.putheader(name, value)
            if body is not None or method in {"POST", "PUT", "PATCH"}:
                connection.putheader("Content-Length", str(len(body or b"")))
            connection.endheaders(body)
            response = connection.getresponse()
            return response.status, response.getheaders(), response.read()
        finally:
            connection.close()

    def filled(self, text, *, quote=False):
        image = urllib.parse.quote(self.image, safe="") if quote else self.image
        for role, value in (("<image>", image), ("<IMAGE>", image.upper()), ("<registry>", self.registry)):
            text = text.replace(role, value)
        for number, id in enumerate(self.ids, start=1):
            text = text.replace(f"<id:{number}>", id).replace(f"<ID:{number}>", id.upper())
        return text.replace("<user>", self.user)

    def named(self, text):
        """A text with this platform's own replaced by roles."""
        for user, token in self.tokens.items():
            text = text.replace(token, "<token>") if user else text
        text = text.replace(self.host, "<host>")
        for number, id in enumerate(self.ids, start=1):
            text = text.replace(id, f"<id:{number}>").replace(id.upper(), f"<ID:{number}>")
        text = text.replace(self.image, "<image>").replace(self.image.upper(), "<IMAGE>")
        text = text.replace(self.registry, "<registry>")
        text = re.sub(
            r"\b(skaha-[a-z]+-[a-z0-9-]*?)(<id:\d+>|[a-z][a-z0-9]{7})(-[a-z0-9]{5})?\b(?!-)",
            lambda found: found[1] + (found[2] if found[2][0] == "<" else "<id>") + ("-<pod>" if found[3] else ""),
            text,
        )
        text = re.sub(r"\w{3}, \d\d \w{3} \d{4} [\d:]{8} GMT", "<date>", text)
        text = TIME.sub("<time>", text)
        text = re.sub(rf"(?<![A-Za-z0-9]){re.escape(self.user)}(?![A-Za-z0-9])", "<user>", text)
        text = re.sub(r"(/[\w.-]+)*/home/<user>", "<home>", text)
        return re.sub(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "<uuid>", text)

    def seen(self, status, headers, body):
        kept = {}
        for name, value in headers:
            if name.lower() in HEADERS or name.lower().startswith("x-vo-"):
                kept.setdefault(name.lower(), []).append(self.named(value))
        text = self.named(body.decode("utf-8", "replace"))
        return {"status": status, "headers": kept, **shape(text, parsed(body))}


def parsed(body):
    try:
        value = json.loads(body)
    except ValueError:
        return None
    return value if isinstance(value, (dict, list)) else None


def shape(text, value=None):
    """The content of an answer: JSON with its layout, a table of events, or a text of which long ones are cut."""
    if value is not None:
        content = tidy(json.loads(text))
        if isinstance(content, list) and content and all(isinstance(row, dict) and "status" in row for row in content):
            content.sort(key=lambda row: (row.get("name", ""), row["status"], row.get("id", "")))  # ids are random
        return {"json": content, "layout": layout(text, content)}
    if text.startswith("TYPE "):
        return {"events": [event(line) for line in text.splitlines()[1:]]}
    return {"text": brief(text)}


def brief(text):
    return text if len(text) <= 400 else f"{text[:60]}… ({len(text)} characters)"


def layout(text, content):
    rows = [content] if isinstance(content, dict) else content
    first = next((row for row in rows if isinstance(row, dict)), {})
    indent = re.search(r"\n( *)\S", text)
    return {
        "indent": len(indent[1]) if indent else None,
        "colon": '": ' in text,
        "last_newline": text.endswith("\n"),
        "keys": list(first),
    }


def tidy(value):
    """JSON without what varies: numbers of users, and the use of running jobs."""
    if isinstance(value, list):
        return [tidy(item) for item in value]
    if not isinstance(value, dict):
        return value
    kept = {key: tidy(item) for key, item in value.items() if key not in USE}
    if "runAsUID" in kept:
        kept |= VARYING
        if kept.get("startTime"):
            kept["expiryTime"] = "<time>"
    return kept


def event(line):
    cells = [cell.strip() for cell in re.split(r"\s{2,}", line.strip())]
    message = re.sub(r"Image size: \d+", "Image size: <n>", cells[2])
    message = re.sub(r"\b\d+(\.\d+)?m?s\b", "<dur>", message)
    cells[2] = re.sub(r"(Successfully assigned )[^/\s]+/(\S+) to \S+", r"\1<namespace>/\2 to <node>", message)
    return cells


def recorded(answer):
    """A recorded answer in the same form."""
    text = json.dumps(answer, ensure_ascii=False)
    text = re.sub(r"<time/min>|<start\+\d+s>", "<time>", text)  # seconds of 00 are left out
    answer = json.loads(text)
    content = {key: answer[key] for key in ("json", "layout", "events") if key in answer}
    if "json" in content:
        content["json"] = tidy(content["json"])
        content["layout"]["keys"] = [key for key in content["layout"]["keys"] if key not in USE]
    if not content:
        content["text"] = brief(answer.get("text") or "")
    headers = {name: values for name, values in answer["headers"].items() if name != "server"}
    return {"status": answer["status"], "headers": headers, **content}


def play(player, case, *, is_patient):
    """Play a case; yield each step with the recorded answer and the one that came.

    A job starts, runs and ends at its own pace: if *is_patient*, its answers are asked for again until they are alike.
    """
    player.begin()
    has_time = case["case"].startswith(("lifecycle/", "templating/"))
    try:
        for number, step in enumerate(case["steps"]):
            request, wanted = step["request"], recorded(step["answer"])
            if has_time and request["method"] == "DELETE":
                await_output(player, case["steps"][number + 1 :])
            came = player.ask(request)
            deadline = time.monotonic() + (PATIENCE if has_time and request["method"] == "GET" and is_patient else 0)
            while came != wanted and time.monotonic() < deadline:
                time.sleep(0.02)
                came = player.ask(request)
            yield step, wanted, came
    finally:
        player.finish()


def await_output(player, later):
    """Wait until a session that is about to be deleted has begun to print, if its log is asked for afterwards."""
    for step in later:
        request, text = step["request"], step["answer"].get("text", "")
        if request.get("query") == "view=logs" and text:
            deadline = time.monotonic() + PATIENCE
            while not player.ask(request)["text"].startswith(text.partition("\n")[0]):
                assert time.monotonic() < deadline, "it never began to print"
                time.sleep(0.02)
