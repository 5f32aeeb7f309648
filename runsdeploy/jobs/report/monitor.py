"""Network monitors: a ping in the style of healthchecks.io.

A run never depends on them (J20): whatever a server does, the result is a warning, and it comes in time. The client is
http.client, not urllib.request: it uses no proxy from the environment (J21), follows no redirects, opens no `file:` or
`ftp:` URLs, and its socket can have a deadline.
"""

import base64
import http.client
import io
import re
import socket
import threading
import time
import urllib.parse
from typing import IO, Any, Dict, List, NamedTuple, Optional, Union

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
PORTS = {"http": 80, "https": 443}

_URL = re.compile(r"https?://[!-~]+", re.IGNORECASE)
_HOST = re.compile(r"[A-Za-z0-9._:%-]+")
_HIGHEST_STATUS = 255
_LATE = "no answer in time"
_TRANSIENT = (408, 425, 429, 500, 502, 503, 504)
"""HTTP statuses after which another attempt may succeed"""


class Limits(NamedTuple):
    """Limits for one request to a monitor."""

    seconds: float = 5.0
    """seconds for one attempt: name lookup, connection, TLS, request and response together"""
    total: float = 10.0
    """seconds for all attempts and the pauses between them"""
    tries: int = 3
    pause: float = 0.5
    """seconds before the second attempt, twice as long before the third"""
    reply: int = 64 * 1024
    """bytes of a response that are read, headers included (S17)"""


LIMITS = Limits()


class _Request(NamedTuple):
    """One HTTP request."""

    scheme: str
    host: str
    port: int
    target: str
    """path and query"""
    headers: Dict[str, str]
    body: bytes


class _AttemptFailed(Exception):
    """An attempt failed; the text says why, and contains nothing of the URL."""

    def __init__(self, message: str, *, transient: bool = True) -> None:
        super().__init__(message)
        self.transient = transient
        """another attempt may succeed"""


def ping(url: str, event: Union[str, int], body: bytes = b"", limits: Limits = LIMITS) -> str:
    """Report to a monitor that a run starts, succeeded, failed, or its exit status; return a warning or nothing.

    `body` is a log, of which the end is sent. Never raises, and takes at most `limits.total` seconds (J20).
    """
    word = str(event)
    if word not in EVENTS and not (re.match(r"[0-9]{1,3}\Z", word) and int(word) <= _HIGHEST_STATUS):
        known = ", ".join(f"`{each}`" for each in EVENTS)
        return f"monitor was not notified: found event `{word!a}`, expected {known} or an exit status"
    deadline = time.monotonic() + limits.total
    try:
        request = _request(url, EVENTS.get(word, f"/{word}"), body[-LONGEST_PING:])
        return _send_with_retries(request, _masked(url), limits, deadline)
    except ValueError:  # its text may contain the URL
        return "monitor was not notified: bad URL, expected `http://HOST/...` or `https://HOST/...` in ASCII"
    except Exception as error:  # noqa: BLE001 - no error of a monitor may fail the run (J20)
        return f"monitor was not notified: {type(error).__name__}"


def _send_with_retries(request: _Request, name: str, limits: Limits, deadline: float) -> str:
    tried = 0
    while True:
        tried += 1
        failure = _attempt_until(request, limits, deadline)
        if failure is None:
            return ""
        pause = limits.pause * tried
        if not failure.transient or tried >= limits.tries or time.monotonic() + pause >= deadline:
            times = f" ({tried} attempts)" if tried > 1 else ""
            return f"monitor at `{name}` was not notified: {failure}{times}"
        time.sleep(pause)


def _request(url: str, path: str, body: bytes) -> _Request:
    """Return the request for a path below a URL; raises ValueError for a bad URL."""
    if len(url) > LONGEST_URL or not _URL.fullmatch(url):
        raise ValueError("not a URL for a monitor")
    parts = urllib.parse.urlsplit(url)
    host = parts.hostname or ""
    if not _HOST.fullmatch(host):
        raise ValueError("no host")
    port = PORTS[parts.scheme] if parts.port is None else parts.port
    user, _, place = parts.netloc.rpartition("@")
    headers = {"Host": place, "User-Agent": f"runsdeploy-jobs/{VERSION}", "Connection": "close"}
    headers["Content-Type"] = "text/plain; charset=utf-8"
    if user:
        pair = ":".join(urllib.parse.unquote(each) for each in user.partition(":")[::2])
        headers["Authorization"] = "Basic " + base64.b64encode(pair.encode("utf-8")).decode("ascii")
    stem = parts.path.rstrip("/") if path else parts.path
    target = (stem + path or "/") + (f"?{parts.query}" if parts.query else "")
    return _Request(parts.scheme, host, port, target, headers, body)


def _masked(url: str) -> str:
    """Return the printable part of a URL, server and port: its path may be a secret."""
    parts = urllib.parse.urlsplit(url)
    place = parts.netloc.rpartition("@")[2]
    if url.count("@") > parts.netloc.count("@"):
        place = "..."  # a password with an unquoted `/`: its beginning would be taken for the port
    return f"{parts.scheme}://{place}"


def _attempt_until(request: _Request, limits: Limits, deadline: float) -> Optional[_AttemptFailed]:
    """Make one attempt with a time limit; return why it failed."""
    deadline = min(deadline, time.monotonic() + limits.seconds)
    outcome: List[Optional[_AttemptFailed]] = []
    # A thread, because a name lookup has no time limit; everything after it has one.
    thread = threading.Thread(
        target=lambda: outcome.append(_attempt(request, limits, deadline)), name="monitor", daemon=True
    )
    thread.start()
    thread.join(max(0.0, deadline - time.monotonic()))
    return outcome[0] if outcome else _AttemptFailed(_LATE)


def _attempt(request: _Request, limits: Limits, deadline: float) -> Optional[_AttemptFailed]:
    """Return why a request failed; never raises."""
    try:
        _check_status(_exchange(request, limits, deadline))
    except _AttemptFailed as error:
        return error
    except http.client.HTTPException as error:
        closed = isinstance(error, http.client.RemoteDisconnected)
        return _AttemptFailed("connection closed without a response" if closed else "the response is not HTTP")
    except socket.timeout:
        return _AttemptFailed(_LATE)
    except OSError as error:
        return _AttemptFailed(_printable(reason(error)))
    except Exception as error:  # noqa: BLE001 - the thread would print it, and the reason would be lost (J20)
        return _AttemptFailed(_printable(f"{type(error).__name__}: {error}"), transient=False)
    return None


def _check_status(status: int) -> None:
    meaning = http.client.responses.get(status, "unknown status").lower()
    kind = status // 100
    if kind == 2:  # noqa: PLR2004 - success (RFC 9110)
        return
    if kind == 3:  # noqa: PLR2004 - redirect
        raise _AttemptFailed(
            f"answered {status} ({meaning}), redirects are not followed: set the final URL", transient=False
        )
    raise _AttemptFailed(f"answered {status} ({meaning})", transient=status in _TRANSIENT)


def _exchange(request: _Request, limits: Limits, deadline: float) -> int:
    """Return the status of the response; its body is not read."""
    with _connected(request, deadline) as line:
        connection = http.client.HTTPConnection(request.host, request.port)
        timed: Any = _TimedSocket(line, limits.reply, deadline)
        connection.sock = timed
        connection.request("POST", request.target, request.body, request.headers)
        return connection.getresponse().status


def _connected(request: _Request, deadline: float) -> socket.socket:
    """Return a connection to the first address that accepts one, with TLS for https."""
    addresses = socket.getaddrinfo(request.host, request.port, 0, socket.SOCK_STREAM)
    context = _context(request)
    problem: Exception = _AttemptFailed("the host has no address")
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


def _context(request: _Request) -> Any:
    if request.scheme == "http":
        return None
    if ssl is None:
        raise _AttemptFailed("this Python has no TLS", transient=False)
    return ssl.create_default_context()


def _remaining(deadline: float) -> float:
    """Return the seconds until a deadline; raises socket.timeout if it has passed."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise socket.timeout("over")
    return left


class _TimedSocket(io.RawIOBase):
    """A connection with a deadline, however slowly bytes arrive, and a limit of bytes (S17)."""

    def __init__(self, line: socket.socket, most: int, deadline: float) -> None:
        super().__init__()
        self._line, self._most, self._deadline = line, most, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._line.settimeout(_remaining(self._deadline))
        room = memoryview(buffer)[: self._most]
        count = self._line.recv_into(room) if room else 0
        self._most -= count
        return count

    def sendall(self, data: bytes) -> None:
        self._line.settimeout(_remaining(self._deadline))
        self._line.sendall(data)

    def close(self) -> None:
        """Do nothing: http.client closes its socket while it still reads; the opener of the connection closes it."""

    def makefile(self, _mode: str) -> IO[bytes]:
        return io.BufferedReader(self)


def _printable(text: str) -> str:
    """Return the text in ASCII, shortened: parts of it may come from a server."""
    return ascii(text)[1:-1][:200]
