"""Plays the recorded exchanges of the storage service against a local platform, in their order, and compares.

The recording has no tokens, ids, times and large bodies: the player puts its own in, and takes them out of the answers.
"""

import base64
import hashlib
import http.client
import re
import socket
import urllib.parse
from xml.etree import ElementTree as ET

AUTHORITY, THEIRS = "cadc.nrc.ca~arc", "lab.local~cavern"
JOB = re.compile(r"\b[0-9a-f]{16}\b")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}|\w{3}, \d\d \w{3} \d{4} [\d:]{8} GMT")
PREAUTH = re.compile(r"(preauth:[^/<]+)(/[^<\s]*)")
COMPARED = ("location", "digest", "content-disposition", "content-type", "allow", "x-vo-authenticated")
LARGE = 100_000  #: bytes from which on the content of a file is shortened
PHASES = {"PENDING", "EXECUTING", "COMPLETED", "ERROR", "ABORTED"}
AUTHORITIES = re.compile(r"cadc\.nrc\.ca[~!/]arc|lab\.local[~/]cavern")
CUT = " … <cut"  #: where the recording leaves the rest of a long body out


class StoragePlayer:
    """A client of one platform that speaks of it in the recording's words."""

    def __init__(self, platform, tokens, bodies):
        self.host = platform.storage_url.removeprefix("http://").removesuffix("/arc")
        self.arc, self.tokens, self.bodies = platform.arc, tokens, bodies
        self.user, self.job = "tester", None
        self.granted = {}  #: the latest grant for each path, which is escaped or not
        self.latest = None
        self.has_certificate = False
        self.renamed = {}  #: digests of our own content, to those of the recorded content, which is not known

    def play(self, scenario):
        """Play a scenario; yield each exchange that can be compared, with both answers."""
        self.user, self.granted = "tester", {}
        self.has_certificate = " cert" in scenario["name"]
        for exchange in scenario["exchanges"] or ():
            played = exchange.get("playedByRecorder")
            if "request" not in exchange or played in ("answer", "cut-before") or exchange.get("rangesByRecorder"):
                continue
            request, wanted = exchange["request"], self.wanted(exchange["answer"] or {})
            if played == "cut-request":
                self.cut(request)
                continue
            came = self.ask(request, wanted)
            if played is None and not exchange.get("rewritten") and wanted["status"] is not None:
                yield request, *compared(wanted, came)

    def ask(self, request, wanted):
        """Send a recorded request; the answer in the recording's form."""
        users = wanted["headers"].get("x-vo-authenticated")
        self.user = users[0] if users else self.user
        headers = {name: self.ours(value) for name, value in request["headers"] if name.lower() != "content-length"}
        if "Authorization" in headers:
            headers["Authorization"] = f"Bearer {self.token(wanted)}"
        elif "preauth" not in request["target"] and (users or self.has_certificate):
            headers["Authorization"] = f"Bearer {self.tokens[self.user]}"  # instead of the certificate
        headers.pop("Expect", None)
        body = self.body(request.get("body"), request, wanted, headers)
        connection = http.client.HTTPConnection(self.host, timeout=30)
        try:
            target = urllib.parse.quote(self.ours(request["target"]), safe="/?&=%:~!$'()*+,;@")
            if "Transfer-Encoding" in headers:
                body = iter([body])
            connection.request(request["method"], target, body, headers, encode_chunked="Transfer-Encoding" in headers)
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        return self.named(response, content)

    def token(self, wanted):
        if wanted["status"] != 401:
            return self.tokens[self.user]
        return self.tokens["expired" if "expired" in wanted["text"] else "bad"]

    def body(self, body, request, wanted, headers):
        if not isinstance(body, dict):
            return None if body is None else self.ours(self.bodies.get(body, body)).encode()
        theirs = next((value for name, value in request["headers"] if name.lower() == "digest"), None)
        theirs = theirs or (wanted["headers"].get("digest") or ["md5=" + base64.b64encode(bytes(16)).decode()])[0]
        raw = base64.b64decode(theirs.removeprefix("md5="))
        size = body["bytes"]
        if size > LARGE:  # shorter, which changes nothing but the length
            size = LARGE + size // 1000 + 7
            self.renamed[f">{size}<"] = f">{body['bytes']}<"
        content = (raw * (size // 16 + 1))[:size]
        digest = hashlib.md5(content).digest()
        self.renamed[digest.hex()] = raw.hex()
        self.renamed[base64.b64encode(digest).decode()] = base64.b64encode(raw).decode()
        for name in headers:
            if name.lower() == "digest":
                headers[name] = "md5=" + base64.b64encode(digest).decode()
        return content

    def cut(self, request):
        """Send the beginning of an upload, and break the connection."""
        host, _, port = self.host.partition(":")
        with socket.create_connection((host, int(port))) as connection:
            target = self.ours(request["target"])
            head = f"PUT {target} HTTP/1.1\r\nHost: {self.host}\r\nContent-Length: 20000000\r\n"
            connection.sendall(f"{head}Authorization: Bearer {self.tokens['tester']}\r\n\r\nhello".encode())
            connection.shutdown(socket.SHUT_WR)
            connection.recv(1000)

    def ours(self, text):
        text = text.replace(THEIRS, AUTHORITY).replace("lab.local/cavern", "cadc.nrc.ca/arc")
        text = text.replace("/cavern/", "/arc/").replace("localhost/cavern", f"{self.host}/arc")
        text = text.replace("<time>", "2026-11-27T00:00:00.000").replace("<job>", self.job or "")
        before, role, path = text.partition("preauth:<preauth token>")
        return before + self.granted.get(urllib.parse.unquote(path), self.latest) + path if role else text

    def named(self, response, content):
        """An answer of this platform in the recording's words."""
        headers = {}
        for name, value in response.getheaders():
            if name.lower() in COMPARED:
                headers.setdefault(name.lower(), []).append(self.theirs(value))
        return {
            "status": response.status,
            "headers": headers,
            "text": self.theirs(content[:1_000_000].decode("utf-8", "replace")),
        }

    def theirs(self, text):
        found = JOB.search(text)
        if found and ("/transfers/" in text or "/async" in text or "/xfer/" in text):
            self.job = found[0]
        for token, path in PREAUTH.findall(text):
            self.granted[urllib.parse.unquote(path)] = self.latest = token
        text = PREAUTH.sub(r"preauth:<preauth token>\2", text)
        text = JOB.sub("<job>", TIME.sub("<time>", text)).replace(f"http://{self.host}/arc", "https://localhost/cavern")
        text = text.replace(AUTHORITY, THEIRS)
        for ours, theirs in self.renamed.items():
            text = text.replace(ours, theirs)
        return text

    def wanted(self, answer):
        """A recorded answer in the same form."""
        headers = {}
        for name, value in answer.get("headers") or ():
            if name.lower() in COMPARED:
                headers.setdefault(name.lower(), []).append(value)
        body = answer.get("body")
        body = self.bodies.get(body, body) if isinstance(body, str) else body
        return {"status": answer.get("status"), "headers": headers, "text": "" if body is None else body}


def compared(wanted, came):
    """Both answers without what need not be alike: the order of children, sums of lengths, the words of HTML pages.

    A job that still ran when the recording asked may have ended here.
    """
    texts = [answer["text"] for answer in (wanted, came)]
    if all(text in PHASES for text in texts if isinstance(text, str)) and "EXECUTING" in texts:
        return None, None
    if isinstance(texts[1], str) and "<uws:phase>EXECUTING<" in texts[1]:
        return None, None
    return tuple({**answer, "text": tidy(answer["text"], wanted["text"])} for answer in (wanted, came))


def tidy(text, wanted):
    if isinstance(wanted, dict):
        return "bytes"
    if not isinstance(text, str) or CUT in wanted or wanted.startswith(("<as ", "<the ")):
        return "cut"
    if wanted.startswith("<!doctype"):
        return "page"
    if text.startswith("<?xml"):
        text = AUTHORITIES.sub(THEIRS, text)
        for role in ("<time>", "<job>", "<preauth token>"):
            text = text.replace(role, role.strip("<>"))
        try:
            return tree(ET.fromstring(text))
        except ET.ParseError:
            return "malformed"
    return AUTHORITIES.sub(THEIRS, text)


def tree(element):
    """An XML element as nested tuples."""
    if element.tag.endswith("}properties") and any("inherit" in (each.get("uri") or "") for each in element):
        # the length and the quota of a folder come from a part of the recording's laboratory
        children = [tree(each) for each in element if not re.search(r"core#length$|quota$", each.get("uri") or "")]
    else:
        children = [tree(each) for each in element]
    if element.tag.endswith("}nodes"):
        children.sort(key=repr)
    return (element.tag, tuple(sorted(element.attrib.items())), (element.text or "").strip(), tuple(children))
