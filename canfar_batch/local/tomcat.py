"""The pages of Tomcat, in which the real service runs: for what never reaches the service itself."""

from __future__ import annotations

import html

from canfar_batch.local.messages import Response

PAGE_TYPE = "text/html;charset=utf-8"
_STYLE = (
    "body {font-family:Tahoma,Arial,sans-serif;} h1, h2, h3, b {color:white;background-color:#525D76;} "
    "h1 {font-size:22px;} h2 {font-size:16px;} h3 {font-size:14px;} p {font-size:12px;} a {color:black;} "
    ".line {height:1px;background-color:#525D76;border:none;}"
)
_PHRASES = {
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    413: "Request Entity Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
}
_DESCRIPTIONS = {
    400: (
        "The server cannot or will not process the request due to something that is perceived to be a client error "
        "(e.g., malformed request syntax, invalid request message framing, or deceptive request routing)."
    ),
    404: (
        "The origin server did not find a current representation for the target resource or is not willing to "
        "disclose that one exists."
    ),
    405: (
        "The method received in the request-line is known by the origin server but not supported by the target "
        "resource."
    ),
    413: (
        "The server is refusing to process a request because the request payload is larger than the server is willing "
        "or able to process."
    ),
    500: "The server encountered an unexpected condition that prevented it from fulfilling the request.",
    501: "The server does not support the functionality required to fulfill the request.",
}
_READER = "org.apache.coyote.http11.Http11InputBuffer"
_CALLERS = (
    "org.apache.coyote.http11.Http11Processor.service(Http11Processor.java:263)",
    "org.apache.coyote.AbstractProcessorLight.process(AbstractProcessorLight.java:63)",
    "org.apache.coyote.AbstractProtocol$ConnectionHandler.process(AbstractProtocol.java:903)",
    "org.apache.tomcat.util.net.NioEndpoint$SocketProcessor.doRun(NioEndpoint.java:1740)",
    "org.apache.tomcat.util.net.SocketProcessorBase.run(SocketProcessorBase.java:52)",
    "org.apache.tomcat.util.threads.ThreadPoolExecutor.runWorker(ThreadPoolExecutor.java:975)",
    "org.apache.tomcat.util.threads.ThreadPoolExecutor$Worker.run(ThreadPoolExecutor.java:658)",
    "org.apache.tomcat.util.threads.TaskThread$WrappingRunnable.run(TaskThread.java:63)",
    "java.base/java.lang.Thread.run(Thread.java:840)",
)


def page(
    status: int, message: str, *, trace: tuple[str, ...] = (), headers: tuple[tuple[str, str], ...] = ()
) -> Response:
    """Return Tomcat's error page.

    Args:
        status: The status, which also decides title and description.
        message: The reason.
        trace: The innermost frames of a Java stack trace, if the page shows one.
        headers: Further headers of the answer.
    """
    title = f"HTTP Status {status} – {_PHRASES[status]}"  # noqa: RUF001 - Tomcat writes this dash
    kind = "Exception Report" if trace else "Status Report"
    parts = [
        f'<!doctype html><html lang="en"><head><title>{title}</title><style type="text/css">{_STYLE}</style></head>',
        f'<body><h1>{title}</h1><hr class="line" /><p><b>Type</b> {kind}</p><p><b>Message</b> {_escaped(message)}</p>',
        f"<p><b>Description</b> {_DESCRIPTIONS[status]}</p>",
    ]
    if trace:
        frames = "".join(f"\n\t{frame}" for frame in (*trace, *_CALLERS))
        parts.append(
            f"<p><b>Exception</b></p><pre>{_escaped(f'java.lang.IllegalArgumentException: {message}{frames}')}\n</pre>"
            "<p><b>Note</b> The full stack trace of the root cause is available in the server logs.</p>"
        )
    parts.append('<hr class="line" /><h3>Apache Tomcat/9.0.98</h3></body></html>')
    return Response(status, "".join(parts).encode(), PAGE_TYPE, headers)


def not_found(path: str) -> Response:
    """Return the page for a path under the service's root that leads nowhere."""
    return page(404, f"The requested resource [{path}] is not available")


def not_implemented(method: str) -> Response:
    """Return the page for a method that HTTP servlets do not know."""
    return page(501, f"Method [{method}] is not implemented by this Servlet for this URI")


def trace_not_allowed() -> Response:
    """Return the page for TRACE, which Tomcat refuses."""
    allow = ("Allow", "HEAD, DELETE, POST, GET, OPTIONS, PUT")
    return page(405, "TRACE method is not allowed", headers=(allow,))


def bad_request(message: str, *, status: int = 400) -> Response:
    """Return the page for a request that cannot be read."""
    return page(status if status in _PHRASES else 400, message)


def invalid_target(target: str) -> Response:
    """Return the page for a request line with characters that URLs must not hold."""
    message = (
        f"Invalid character found in the request target [{target} ]. "
        "The valid characters are defined in RFC 7230 and RFC 3986"
    )
    return page(400, message, trace=(f"{_READER}.parseRequestLine(Http11InputBuffer.java:491)",))


def head_too_large(*, in_request_line: bool) -> Response:
    """Return the page for a request line and headers of more than 8 KiB."""
    fill = f"{_READER}.fill(Http11InputBuffer.java:765)"
    if in_request_line:
        trace: tuple[str, ...] = (fill, f"{_READER}.parseRequestLine(Http11InputBuffer.java:491)")
    else:
        trace = (
            fill,
            f"{_READER}.parseHeader(Http11InputBuffer.java:908)",
            f"{_READER}.parseHeaders(Http11InputBuffer.java:608)",
        )
    return page(400, "Request header is too large", trace=trace)


def _escaped(text: str) -> str:
    return html.escape(text, quote=False).replace("'", "&#39;").replace('"', "&quot;").replace("/", "&#47;")
