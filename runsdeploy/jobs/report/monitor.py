"""Network monitors: a ping in the style of healthchecks.io.

A run never depends on them (J20): whatever a server does, the result is a warning, and it comes in time. Not
urllib.request: it reads proxies from the environment (J21), follows redirects, opens `file:` and `ftp:` URLs, and has
no time limit for a whole answer, nor has http.client, which is used to send only.
"""

import base64
import http.client
import re
import socket
import threading
import time
import urllib.parse
from typing import Any, Dict, List, NamedTuple, Tuple

from .. import VERSION
from ..errors import reason

try:
    import ssl
except ImportError:  # a Python built without it must still make backups
    ssl = None  # type: ignore[assignment]

LONGEST_URL = 2048
LONGEST_PING = 10_000
"""bytes of a log sent with a ping, from its end, where the failure is"""
EVENTS = {"start": "/start", "success": "", "fail": "/fail"}

_URL = re.compile(r"https?://[!-~]+", re.IGNORECASE)
_HOST = re.compile(r"[A-Za-z0-9._:%-]+")
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9])(?:[ \r]|\Z)")
_HEAD_END = b"\r\n\r\n"
_LATE = "no answer in time"
_TRANSIENT = (408, 425, 429, 500, 502, 503, 504)
"""HTTP statuses after which another attempt may succeed"""


class Limits(NamedTuple):
    """Limits for one request to a monitor."""

    seconds: float = 3.0
    """seconds for one attempt: name lookup, connection, TLS, request and response together"""
    total: float = 3.0
    """seconds for all attempts and the pauses between them: the two pings of a run cost less than ten seconds (J20)"""
    tries: int = 3
    pause: float = 0.5
    """seconds before the second attempt, twice as long before the third"""
    reply: int = 64 * 1024
    """bytes of a response that are read (S17)"""


LIMITS = Limits()


class _Request(NamedTuple):
    """One HTTP request."""

    secure: bool
    host: str
    port: int
    target: str
    """path and query"""
    headers: Dict[str, str]
    body: bytes


class _NoAnswer(Exception):
    """There was no valid response; the text says why, and contains nothing of the URL."""


def ping(url: str, event: str, body: bytes = b"", limits: Limits = LIMITS) -> str:
    """Report to a monitor one of EVENTS; return a warning or nothing.

    `body` is a log, of which the end is sent. Never raises, and takes at most `limits.total` seconds (J20).
    """
    deadline = time.monotonic() + limits.total
    try:
        request = _request(url, EVENTS[event], body[-LONGEST_PING:])
        failure = _send_with_retries(request, limits, deadline)
    except ValueError:  # its text may contain the URL
        return "monitor was not notified: bad URL, expected `http://HOST/...` or `https://HOST/...` in ASCII"
    except Exception as error:  # noqa: BLE001 - no error of a monitor may fail the run (J20)
        return f"monitor was not notified: {type(error).__name__}"
    return failure and f"monitor at `{_masked(url)}` was not notified: {failure}"


def _request(url: str, path: str, body: bytes) -> _Request:
    """Return the request for a path below a URL; raises ValueError for a bad URL."""
    if len(url) > LONGEST_URL or not _URL.fullmatch(url):
        raise ValueError("not a URL for a monitor")
    parts = urllib.parse.urlsplit(url)
    host, secure = parts.hostname or "", parts.scheme == "https"
    if not _HOST.fullmatch(host):
        raise ValueError("no host")
    port = (443 if secure else 80) if parts.port is None else parts.port
    user, _, place = parts.netloc.rpartition("@")
    headers = {"Host": place, "User-Agent": f"runsdeploy-jobs/{VERSION}", "Connection": "close"}
    headers["Content-Type"] = "text/plain; charset=utf-8"
    if user:
        pair = ":".join(urllib.parse.unquote(each) for each in user.partition(":")[::2])
        headers["Authorization"] = "Basic " + base64.b64encode(pair.encode("utf-8")).decode("ascii")
    stem = parts.path.rstrip("/") if path else parts.path
    target = (stem + path or "/") + (f"?{parts.query}" if parts.query else "")
    return _Request(secure, host, port, target, headers, body)


def _masked(url: str) -> str:
    """Return the printable part of a URL, server and port: its path may be a secret."""
    parts = urllib.parse.urlsplit(url)
    place = parts.netloc.rpartition("@")[2]
    if url.count("@") > parts.netloc.count("@"):
        place = "..."  # a password with an unquoted `/`: its beginning would be taken for the port
    return f"{parts.scheme}://{place}"


def _send_with_retries(request: _Request, limits: Limits, deadline: float) -> str:
    """Return why the last attempt failed; empty if it did not."""
    tried = 0
    while True:
        tried += 1
        failure, again = _attempt_until(request, limits, min(deadline, time.monotonic() + limits.seconds))
        pause = limits.pause * tried
        if not failure or not again or tried >= limits.tries or time.monotonic() + pause >= deadline:
            return f"{failure} ({tried} attempts)" if failure and tried > 1 else failure
        time.sleep(pause)


def _attempt_until(request: _Request, limits: Limits, deadline: float) -> Tuple[str, bool]:
    outcome: List[Tuple[str, bool]] = []
    # A thread, because a name lookup has no time limit; everything after it has one.
    thread = threading.Thread(
        target=lambda: outcome.append(_attempt(request, limits, deadline)), name="monitor", daemon=True
    )
    thread.start()
    thread.join(max(0.0, deadline - time.monotonic()))
    return outcome[0] if outcome else (_LATE, True)


def _attempt(request: _Request, limits: Limits, deadline: float) -> Tuple[str, bool]:
    """Return why a request failed, empty if it did not, and whether another attempt may succeed; never raises."""
    try:
        status = _exchange(request, limits.reply, deadline)
    except socket.timeout:
        return _LATE, True
    except OSError as error:
        return _printable(reason(error)), True
    except _NoAnswer as error:
        return str(error), True
    except Exception as error:  # noqa: BLE001 - the thread would print it, and the reason would be lost (J20)
        return _printable(f"{type(error).__name__}: {error}"), False
    kind = status // 100
    if kind == 2:  # noqa: PLR2004 - success (RFC 9110)
        return "", False
    hint = ", redirects are not followed: set the final URL" if kind == 3 else ""  # noqa: PLR2004 - redirect
    meaning = http.client.responses.get(status, "unknown status").lower()
    return f"answered {status} ({meaning}){hint}", status in _TRANSIENT


def _exchange(request: _Request, most: int, deadline: float) -> int:
    """Send a request; return the status of the response, of which only the head is read, at most `most` bytes (S17)."""
    with _connected(request, deadline) as line:
        connection = http.client.HTTPConnection(request.host, request.port)
        connection.sock = line
        line.settimeout(_remaining(deadline))
        connection.request("POST", request.target, request.body, request.headers)
        data, left = b"", most
        while left:
            line.settimeout(_remaining(deadline))
            piece = line.recv(min(left, 4096))
            if not piece:
                break
            data, left = data + piece, left - len(piece)
            while _HEAD_END in data:
                head, _, data = data.partition(_HEAD_END)
                status = _STATUS.match(head)
                if not status:
                    raise _NoAnswer("the response is not HTTP")
                if not status.group(1).startswith(b"1"):  # interim responses come before the final one
                    return int(status.group(1))
        raise _NoAnswer("the response is not HTTP" if left < most else "connection closed without a response")


def _connected(request: _Request, deadline: float) -> socket.socket:
    """Return a connection to the first address that accepts one, with TLS for https."""
    if request.secure and ssl is None:
        raise _NoAnswer("this Python has no TLS")
    context: Any = ssl.create_default_context() if request.secure else None
    addresses = socket.getaddrinfo(request.host, request.port, 0, socket.SOCK_STREAM)
    problem: Exception = _NoAnswer("the host has no address")
    for index, (family, kind, protocol, _, address) in enumerate(addresses):
        line = socket.socket(family, kind, protocol)
        if context:  # before connect: a connection that is reset before it is wrapped would stay open
            line = context.wrap_socket(line, server_hostname=request.host)
        try:
            # An address that does not respond must leave time for the next. The limit covers the TLS handshake.
            line.settimeout(_remaining(deadline) / min(len(addresses) - index, 2))
            line.connect(address)
        except OSError as error:
            line.close()
            problem = error
        except BaseException:
            line.close()
            raise
        else:
            return line
    raise problem


def _remaining(deadline: float) -> float:
    """Return the seconds until a deadline; raises socket.timeout if it has passed."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise socket.timeout("over")
    return left


def _printable(text: str) -> str:
    """Return the text in ASCII, shortened: parts of it may come from a server."""
    return ascii(text)[1:-1][:200]
