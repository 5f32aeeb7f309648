"""Monitors: whatever a server does, a ping comes back, in time, with a warning that gives no secret away (J20, J21)."""

from __future__ import annotations

import base64
import contextlib
import select
import socket
import ssl
import struct
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from runsdeploy.jobs.report import monitor
from runsdeploy.jobs.report.monitor import LONGEST_PING, Limits, ping
from tests.jobs.system import open_files

QUICK = Limits(seconds=0.2, total=0.5, tries=2, pause=0.01)
"""for servers that do not: it is waited for in full"""
PATIENT = Limits(seconds=60.0, total=100.0, tries=3, pause=0.01)
"""for servers that do answer: nothing depends on how fast this machine is"""
GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK"
USER, PASSWORD, TOKEN = "watcher", "pa55-w0rd", "t0ken-7"
Behaviour = Callable[[socket.socket], None]


class Server:
    """A server on this machine that does to each connection what a test wants."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour, self.connections, self.threads = behaviour, 0, []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.accepting = threading.Thread(target=self.accept)
        self.accepting.start()

    def accept(self) -> None:
        while True:
            try:
                line, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            self.threads.append(threading.Thread(target=self.serve, args=(line,)))
            self.threads[-1].start()

    def serve(self, line: socket.socket) -> None:
        with line:
            line.settimeout(60)
            with contextlib.suppress(OSError):
                self.behaviour(line)

    def close(self) -> None:
        if self.listener.fileno() < 0:
            return
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.accepting.join()  # it may still add to the others
        for thread in self.threads:
            thread.join()


@pytest.fixture
def serve() -> Iterator[Callable[[Behaviour], Server]]:
    servers: list[Server] = []

    def start(behaviour: Behaviour) -> Server:
        servers.append(Server(behaviour))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture(autouse=True)
def _every_thread_of_ours_ends_by_itself() -> Iterator[None]:
    yield
    for thread in threading.enumerate():
        if thread.name == "monitor":
            thread.join(30)
            assert not thread.is_alive()


def request_of(line: socket.socket) -> tuple[bytes, dict[bytes, bytes], bytes]:
    """Read a whole request: first line, headers in lower case, body."""
    with line.makefile("rb") as file:
        first, headers = file.readline(), {}
        while (header := file.readline().rstrip(b"\r\n")) != b"":
            name, _, value = header.partition(b": ")
            assert name.lower() not in headers
            headers[name.lower()] = value
        return first, headers, file.read(int(headers.get(b"content-length", b"0")))


def answering(reply: bytes) -> Behaviour:
    def behave(line: socket.socket) -> None:
        request_of(line)
        line.sendall(reply)

    return behave


def recording(into: list[tuple[bytes, dict[bytes, bytes], bytes]], reply: bytes = GOOD) -> Behaviour:
    def behave(line: socket.socket) -> None:
        into.append(request_of(line))
        line.sendall(reply)

    return behave


def silent(line: socket.socket) -> None:
    while line.recv(65536):
        pass


def dripping(head: bytes, drop: bytes) -> Behaviour:
    """Send a byte at a time, faster than any timeout of a single read, without end."""

    def behave(line: socket.socket) -> None:
        request_of(line)
        line.sendall(head)
        line.settimeout(0.02)
        while True:
            line.sendall(drop)
            with contextlib.suppress(TimeoutError):
                if line.recv(1) == b"":
                    return

    return behave


def dripping_at_once(line: socket.socket) -> None:
    """Send the beginning of a record of TLS, a byte at a time."""
    for byte in b"\x16\x03\x03\x40\x00" + b"\x00" * 10_000:
        line.sendall(bytes([byte]))
        if select.select([line], [], [], 0.02)[0] and line.recv(65536) == b"":
            return


def pouring(head: bytes, piece: bytes, sent: list[int]) -> Behaviour:
    """Send up to 1 GiB, and note how much was."""

    def behave(line: socket.socket) -> None:
        request_of(line)
        line.sendall(head)
        block = piece * (65536 // len(piece))
        try:
            while sum(sent) < 1 << 30:
                line.sendall(block)
                sent.append(len(block))
        finally:
            sent.append(0)

    return behave


def hanging_up(line: socket.socket) -> None:
    line.shutdown(socket.SHUT_RDWR)


def plain(line: socket.socket) -> None:
    """Answer whatever comes, as a server does that expected HTTP and got TLS."""
    line.recv(65536)
    line.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")


def resetting(line: socket.socket) -> None:
    line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def closed_port() -> int:
    """Return a port nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.mark.parametrize(
    ("path", "event", "target"),
    [
        ("", "success", b"/"),
        ("/", "success", b"/"),
        ("", "start", b"/start"),
        ("/ping/u-u-i-d", "start", b"/ping/u-u-i-d/start"),
        ("/ping/u-u-i-d", "success", b"/ping/u-u-i-d"),
        ("/ping/u-u-i-d/", "success", b"/ping/u-u-i-d/"),
        ("/ping/u-u-i-d", "fail", b"/ping/u-u-i-d/fail"),
        ("/ping/u-u-i-d/", "fail", b"/ping/u-u-i-d/fail"),
        ("/ping/k%2Fey?rid=1&x=%20#part", "start", b"/ping/k%2Fey/start?rid=1&x=%20"),
    ],
)
def test_a_ping_arrives_exactly(serve, path: str, event: str, target: bytes):
    got: list = []
    server = serve(recording(got))
    assert ping(server.url + path, event, b"a log\n\xff\x00", PATIENT) == ""
    [(first, headers, body)] = got
    assert first == b"POST " + target + b" HTTP/1.1\r\n"
    assert headers[b"host"] == f"127.0.0.1:{server.port}".encode()
    assert b"authorization" not in headers
    assert body == b"a log\n\xff\x00"


def test_a_ping_takes_the_end_of_a_long_log(serve):
    got: list = []
    assert ping(serve(recording(got)).url, "fail", b"x" * 1_000_000 + b"the reason", PATIENT) == ""
    assert got[0][2] == b"x" * (LONGEST_PING - 10) + b"the reason"


def test_user_and_password_of_a_url_arrive_and_stand_in_no_warning(serve):
    got: list = []
    server = serve(recording(got, b"HTTP/1.1 401 Unauthorized\r\n\r\n"))
    url = server.url.replace("//", f"//{USER}:{PASSWORD}%40%3A@") + f"/{TOKEN}?key={TOKEN}"
    warning = ping(url, "success", b"", PATIENT)
    assert got[0][1][b"authorization"] == b"Basic " + base64.b64encode(f"{USER}:{PASSWORD}@:".encode())
    assert got[0][1][b"host"] == f"127.0.0.1:{server.port}".encode()
    assert warning == f"monitor at `http://127.0.0.1:{server.port}` was not notified: answered 401 (unauthorized)"


HOPELESS: list[tuple[str, Behaviour, str]] = [
    ("black hole", silent, "no answer in time"),
    ("500", answering(b"HTTP/1.1 500 x\r\nContent-Length: 0\r\n\r\n"), "answered 500 (internal server error)"),
    ("429", answering(b"HTTP/1.1 429 x\r\nRetry-After: 99999\r\n\r\n"), "answered 429"),
    ("closes at once", hanging_up, ""),
    ("closes after the request", answering(b""), "connection closed without a response"),
    ("resets", resetting, ""),
    ("garbage", answering(b"\x00\xff\x1b[2J garbage\r\n\r\n"), "the response is not HTTP"),
    ("not a status", answering(b"HTTP/1.1 twohundred OK\r\n\r\n"), "the response is not HTTP"),
    ("endless status line", pouring(b"", b"x", []), "the response is not HTTP"),
    ("speaks ssh", answering(b"SSH-2.0-OpenSSH_9.2\r\n"), "the response is not HTTP"),
    ("half a status line", answering(b"HTTP/1"), "the response is not HTTP"),
    ("version of the future", answering(b"HTTP/9.9 200 OK\r\n\r\n"), "the response is not HTTP"),
    ("drips a status line", dripping(b"HTTP/1.1 2", b"0"), "no answer in time"),
    ("drips headers", dripping(b"HTTP/1.1 200 OK\r\n", b"x"), "no answer in time"),
    ("drips whole headers", dripping(b"HTTP/1.1 200 OK\r\n", b"a: b\r\n"), ""),
    ("drips 100 Continue", dripping(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), "no answer in time"),
]


@pytest.mark.parametrize(("behaviour", "says"), [each[1:] for each in HOPELESS], ids=[each[0] for each in HOPELESS])
def test_J20_a_server_that_does_not_do_its_part_is_a_warning(serve, behaviour: Behaviour, says: str):
    server = serve(behaviour)
    name = f"monitor at `http://127.0.0.1:{server.port}` was not notified: "
    limits = QUICK if says in ("", "no answer in time") else PATIENT
    warning = ping(server.url, "success", b"log", limits)
    assert warning.startswith(name)
    assert says in warning
    assert warning.isprintable()
    assert warning.isascii()


@pytest.mark.parametrize("behaviour", [silent, hanging_up, plain, dripping_at_once])
def test_J20_tls_to_a_server_that_speaks_none_is_a_warning(serve, behaviour: Behaviour):
    server = serve(behaviour)
    warning = ping(server.url.replace("http:", "https:"), "start", b"", QUICK)
    assert warning.startswith(f"monitor at `https://127.0.0.1:{server.port}` was not notified: ")


def test_J20_a_closed_port_is_a_warning():
    url = f"http://127.0.0.1:{closed_port()}"
    assert ping(url, "start", b"", PATIENT) == f"monitor at `{url}` was not notified: connection refused (3 attempts)"


@contextlib.contextmanager
def swallowing() -> Iterator[int]:
    """Yield a port where packets vanish, as behind a firewall: the kernel drops what does not fit a queue."""
    with socket.socket() as full, contextlib.ExitStack() as others:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(5):
            other = others.enter_context(socket.socket())
            other.settimeout(0)
            other.connect_ex(full.getsockname())
        yield full.getsockname()[1]


def test_J20_a_server_that_takes_no_connection_is_a_warning():
    with swallowing() as port:
        assert "no answer in time" in ping(f"http://127.0.0.1:{port}", "start", b"", QUICK)


@pytest.mark.parametrize(
    ("head", "piece", "taken"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n", b"x", "taken"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n", "taken"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\nTransfer-Encoding: x\r\n\r\n", b"x", "taken"),
        (b"HTTP/1.1 503 no\r\n\r\n", b"x", "refused"),
        (b"HTTP/1.1 200 OK\r\n", b"a: b\r\n", "refused"),
        (b"HTTP/1.1 200 OK\r\na: ", b"x", "refused"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n", "refused"),
        (b"", b"x", "refused"),
    ],
)
def test_S17_of_a_reply_of_1_GiB_next_to_nothing_is_read(serve, head: bytes, piece: bytes, taken: str):
    sent: list[int] = []
    server = serve(pouring(head, piece, sent))
    warning = ping(server.url, "start", b"", PATIENT._replace(tries=1))
    assert warning if taken == "refused" else not warning
    server.close()
    assert sent[-1] == 0
    assert sum(sent) < 32 << 20  # what the kernel holds between the two


def test_S17_no_byte_beyond_the_limit_is_read_even_of_a_head(monkeypatch: pytest.MonkeyPatch, serve):
    """Counted where the bytes come from; http.client itself would read interim answers for ever."""
    read: list[int] = []

    class Counting(socket.socket):
        def recv(self, size: int, flags: int = 0) -> bytes:
            data = super().recv(size, flags)
            read.append(len(data))
            return data

    server = serve(pouring(b"", b"HTTP/1.1 100 Continue\r\n\r\n", []))
    monkeypatch.setattr(monitor.socket, "socket", Counting)
    assert ping(server.url, "start", b"", PATIENT._replace(tries=1))
    assert sum(read) == PATIENT.reply


def test_a_reply_that_drips_after_its_status_is_a_success(serve):
    assert ping(serve(dripping(b"HTTP/1.1 200 OK\r\n\r\n", b"x")).url, "start", b"", PATIENT) == ""


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_J20_a_redirect_is_not_followed_and_its_target_stands_in_no_warning(serve, status: int):
    elsewhere = serve(answering(GOOD))
    target = f"http://{USER}:{PASSWORD}@127.0.0.1:{elsewhere.port}/{TOKEN}"
    server = serve(answering(f"HTTP/1.1 {status} {TOKEN}\r\nLocation: {target}\r\n\r\n".encode()))
    warning = ping(server.url, "start", b"", PATIENT)
    assert f"answered {status} (" in warning
    assert "redirects are not followed: set the final URL" in warning
    assert not any(each in warning for each in (USER, PASSWORD, TOKEN, str(elsewhere.port)))
    assert (server.connections, elsewhere.connections) == (1, 0)


def test_J20_a_redirect_to_itself_is_asked_once(serve):
    server = serve(answering(b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n"))
    assert "answered 302 (found)" in ping(server.url, "start", b"", PATIENT)
    assert server.connections == 1


@pytest.mark.parametrize(
    ("status", "tries"), [(200, 1), (204, 1), (400, 1), (404, 1), (413, 1), (429, 3), (500, 3), (501, 1), (503, 3)]
)
def test_J20_what_will_not_change_is_not_asked_again_and_nothing_more_than_three_times(serve, status: int, tries: int):
    server = serve(answering(f"HTTP/1.1 {status} x\r\n\r\n".encode()))
    assert (ping(server.url, "start", b"", PATIENT) == "") is (status < 300)
    assert server.connections == tries


def test_a_server_that_comes_back_is_told_in_the_end(serve):
    got: list = []

    def behave(line: socket.socket) -> None:
        got.append(request_of(line))
        line.sendall(GOOD if len(got) == 3 else b"HTTP/1.1 503 x\r\n\r\n")

    assert ping(serve(behave).url, "success", b"a 1\n", PATIENT) == ""
    assert len(got) == 3
    assert [each[2] for each in got] == [b"a 1\n"] * 3


def test_J21_proxies_of_the_environment_are_not_asked(serve, monkeypatch: pytest.MonkeyPatch):
    proxy, server = serve(answering(b"HTTP/1.1 500 x\r\n\r\n")), serve(answering(GOOD))
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, proxy.url)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert ping(server.url, "start", b"", PATIENT) == ""
    assert (server.connections, proxy.connections) == (1, 0)


BAD = [
    "",
    "http",
    "http:",
    "http://",
    "https:///path",
    "http://:80/",
    f"http://{USER}:{PASSWORD}@",
    f"file:///etc/passwd?{TOKEN}",
    f"ftp://{USER}:{PASSWORD}@127.0.0.1/{TOKEN}",
    f"gopher://127.0.0.1/{TOKEN}",
    f"data:text/plain,{TOKEN}",
    f"javascript:{TOKEN}",
    f"//127.0.0.1/{TOKEN}",
    f"127.0.0.1:80/{TOKEN}",
    f"{USER}:{PASSWORD}@127.0.0.1",
    f"http://{USER}:{PASSWORD}/x@127.0.0.1/",
    f"http://127.0.0.1:{TOKEN}/",
    f"http://127.0.0.1:99999/{TOKEN}",
    f"http://127.0.0.1:-1/{TOKEN}",
    f"http://[::1/{TOKEN}",
    f"http://127.0.0.1/ {TOKEN}",
    f"http://127.0.0.1/{TOKEN}\r\nX-Injected: 1",
    f"http://127.0.0.1/{TOKEN}\n",
    f"http://127.0.0.1\t/{TOKEN}",
    f"http://127.0.0.1/\0{TOKEN}",
    f"http://127.0.0.1/{TOKEN}/ø",
    f"http://ø.example/{TOKEN}",
    f"http://127.0.0.1/{TOKEN}\udcff",
    f"http://a b/{TOKEN}",
    f"http://a`b/{TOKEN}",
    f"http://127.0.0.1/{TOKEN}" + "x" * 3000,
]


@pytest.mark.parametrize("url", BAD)
def test_J20_a_url_that_cannot_be_used_is_a_warning_without_a_word_of_it(monkeypatch: pytest.MonkeyPatch, url: str):
    monkeypatch.setattr(socket, "getaddrinfo", None)  # nobody is asked for anything
    warning = ping(url, "start", b"", QUICK)
    assert warning.startswith("monitor was not notified: bad URL, expected `http://HOST/")
    assert not any(each in warning for each in (USER, PASSWORD, TOKEN, "127.0.0.1"))


def no_name(*_arguments, **_options):
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


@settings(deadline=None)
@example("https", f"{USER}:1234/{PASSWORD}@host.example/")
@example("http", "x" * 300)
@example("http", "." * 300)
@example("http", "[::1]:1")
@example("http", "[x]")
@given(st.sampled_from(["http", "HTTPS", "ftp", "x"]), st.text(st.characters(), max_size=60))
def test_J20_no_url_raises_and_no_secret_in_one_is_printed(scheme: str, rest: str):
    """Names are looked up nowhere here: a random one can be somebody's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", no_name)
        limits = QUICK._replace(tries=1)
        for url in (f"{scheme}://{rest}", f"{scheme}://{USER}:{PASSWORD}@{rest}", f"{scheme}://h/{rest}?{TOKEN}"):
            warning = ping(url, "start", b"", limits)
            assert warning.startswith("monitor ")
            assert warning.isprintable()
            assert not any(each in warning for each in (USER, PASSWORD, TOKEN))


def test_J20_a_name_nobody_answers_for_is_a_warning_in_time(monkeypatch: pytest.MonkeyPatch):
    """A resolver cannot be interrupted: here it answers when the ping has come back, or not at all."""
    back = threading.Event()

    def stuck(*_arguments, **_options):
        back.wait(60)
        return no_name()

    monkeypatch.setattr(socket, "getaddrinfo", stuck)
    warning = ping(f"http://monitor.example/{TOKEN}", "start", b"", QUICK)
    back.set()
    assert warning.startswith("monitor at `http://monitor.example` was not notified: no answer in time")


def test_an_address_that_refuses_leaves_time_for_the_next(serve, monkeypatch: pytest.MonkeyPatch):
    """As `localhost` is both ::1 and 127.0.0.1 and a server listens on one."""
    server = serve(answering(GOOD))
    ports = [closed_port(), closed_port(), server.port]
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)) for port in ports]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: found)
    assert ping("http://monitor.example/", "start", b"", PATIENT._replace(tries=1)) == ""


def test_an_address_that_swallows_packets_leaves_time_for_the_next(serve, monkeypatch: pytest.MonkeyPatch):
    server = serve(answering(GOOD))
    with swallowing() as port:
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", each)) for each in (port, server.port)]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_: found)
        assert ping("http://monitor.example/", "start", b"", PATIENT._replace(seconds=6.0, tries=1)) == ""


def test_J20_what_nobody_thought_of_is_a_warning(monkeypatch: pytest.MonkeyPatch):
    def broken(*_arguments):
        raise MemoryError

    monkeypatch.setattr(socket, "getaddrinfo", broken)
    assert "was not notified: MemoryError" in ping("http://monitor.example", "start", b"", QUICK)
    monkeypatch.setattr(threading.Thread, "start", broken)
    assert ping("http://monitor.example", "start", b"", QUICK) == "monitor was not notified: MemoryError"


HEADS = [b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0 100 \r\n\r\n", b"HTTP/1.1 302 \r\nLocation: ", b"HTTP/1.1 ", b""]


def test_J20_no_reply_whatever_raises(serve):
    reply = [b""]

    def replying(line: socket.socket) -> None:
        request_of(line)
        line.sendall(reply[0])

    server = serve(replying)

    @settings(deadline=None, max_examples=150)
    @given(st.lists(st.sampled_from(HEADS) | st.binary(max_size=40), max_size=4).map(b"".join))
    def replies(data: bytes) -> None:
        reply[0] = data
        warning = ping(server.url, "start", b"", PATIENT._replace(tries=1))
        assert warning == "" or warning.startswith(f"monitor at `{server.url}` was not notified: ")
        assert warning.isprintable()

    replies()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a certificate for 127.0.0.1 and its key in one file."""
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    argv = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=127.0.0.1", "-days", "2"]
    argv += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(path), "-out", str(path) + ".crt"]
    try:
        subprocess.run(argv, check=True, timeout=60, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"openssl makes no certificate: {error}")
    path.write_bytes(path.read_bytes() + path.with_name("both.pem.crt").read_bytes())
    return path


def over_tls(certificate: Path, behaviour: Behaviour) -> Behaviour:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    def behave(line: socket.socket) -> None:
        with context.wrap_socket(line, server_side=True) as secured:
            behaviour(secured)

    return behave


def test_a_ping_arrives_over_tls(serve, certificate: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    got: list = []
    server = serve(over_tls(certificate, recording(got)))
    assert ping(f"https://127.0.0.1:{server.port}/x", "start", b"log" * 10_000, PATIENT) == ""
    assert got[0][0] == b"POST /x/start HTTP/1.1\r\n"
    assert got[0][2] == (b"log" * 10_000)[-LONGEST_PING:]


def test_J20_a_server_that_drips_over_tls_is_a_warning(serve, certificate: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    server = serve(over_tls(certificate, dripping(b"HTTP/1.1 2", b"0")))
    limits = QUICK._replace(seconds=3.0, total=3.0)
    assert "no answer in time" in ping(f"https://127.0.0.1:{server.port}/x", "start", b"", limits)


def test_J20_a_python_without_tls_is_a_warning(serve, monkeypatch: pytest.MonkeyPatch):
    server = serve(answering(GOOD))
    monkeypatch.setattr(monitor, "ssl", None)
    assert "this Python has no TLS" in ping(server.url.replace("http:", "https:"), "start", b"", PATIENT)
    assert ping(server.url, "start", b"", PATIENT) == ""


def test_a_certificate_nobody_vouches_for_gets_no_request(serve, certificate: Path):
    got: list = []
    server = serve(over_tls(certificate, recording(got)))
    warning = ping(f"https://{USER}:{PASSWORD}@127.0.0.1:{server.port}/{TOKEN}", "start", b"log", PATIENT)
    assert "certificate" in warning
    assert not any(each in warning for each in (USER, PASSWORD, TOKEN))
    assert got == []


def test_no_descriptor_is_left_open(serve):
    before = open_files()
    for behaviour in (plain, hanging_up, resetting, answering(GOOD), answering(b"")):
        server = serve(behaviour)
        ping(server.url, "start", b"", PATIENT)
        if behaviour in (plain, hanging_up, resetting):
            ping(server.url.replace("http:", "https:"), "start", b"", PATIENT)
        server.close()
    assert open_files() <= before


OTHERS = [
    path
    for version in ("3.6", "3.8", "3.13")
    for path in sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
]


PROGRAM = """
import sys

sys.path.insert(0, sys.argv[1])
from jobs.report.monitor import *

good, pours, plain, secure, silent, drips, records = sys.argv[2:]
limits, quick = LIMITS._replace(seconds=60.0, total=60.0, tries=1), LIMITS._replace(seconds=0.3, total=0.6)
for warning in (
    ping(good + "/x", "start", b"log", limits),
    ping(secure, "fail", b"log", limits),
    ping(pours, "fail", b"", limits),
    ping(plain, "fail", b"", limits),
    ping("file:///etc/passwd", "start"),
    ping(silent, "start", b"", quick),
    ping(drips, "start", b"", quick),
    ping(records, "start", b"", quick),
):
    print(warning)
"""


@pytest.mark.parametrize("python", [Path(sys.executable), *OTHERS], ids=lambda path: path.parts[-3])
def test_every_python_tells_monitors_out_of_a_zip(serve, certificate: Path, tmp_path: Path, python: Path):
    """And exits though a server still drips."""
    package = Path(__file__).parents[3] / "runsdeploy/jobs"
    with zipfile.ZipFile(tmp_path / "jobs.zip", "w") as archive:
        for file in package.rglob("*.py"):
            archive.write(file, f"jobs/{file.relative_to(package)}")
    got: list = []
    servers = [
        serve(recording(got)),
        serve(pouring(b"", b"HTTP/1.1 100 Continue\r\n\r\n", [])),
        serve(plain),
        serve(over_tls(certificate, recording(got))),
        serve(silent),
        serve(dripping(b"HTTP/1.1 2", b"0")),
        serve(dripping_at_once),
    ]
    urls = [
        each.url.replace("http:", "https:") if number in (2, 3, 6) else each.url for number, each in enumerate(servers)
    ]
    argv = [str(python), "-I", "-W", "error", "-c", PROGRAM, str(tmp_path / "jobs.zip"), *urls]
    environment = {"SSL_CERT_FILE": str(certificate), "http_proxy": servers[4].url, "https_proxy": servers[4].url}
    done = subprocess.run(argv, check=True, timeout=100, env=environment, capture_output=True, text=True)
    assert done.stderr == ""
    said = done.stdout.split("\n")[:-1]
    assert said[:2] == ["", ""]
    assert [each[0].split()[1] for each in got] == [b"/x/start", b"/fail"]
    assert all(each.startswith("monitor ") for each in said[2:])
    assert all("no answer in time" in each for each in said[5:])
