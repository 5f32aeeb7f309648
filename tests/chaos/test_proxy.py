"""The proxy that breaks connections: at the very byte, in the very way, and no other connection."""

from __future__ import annotations

import contextlib
import random
import socket
import subprocess
import threading
import time

import pytest

from tests.chaos.proxy import Fault, Proxy, through
from tests.sshd import FakeHost
from tests.trees import Operator, plant, script, wait_until

PATIENCE = 20
QUIET = 0.15
"""seconds in which nothing may arrive"""


class Server:
    """Whatever answers connections behind the proxy, each in a thread of its own."""

    def __init__(self, answer):
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self._listener.getsockname()[1]
        self.links = []
        self.heard = []
        self.ends = []
        self._threads = [threading.Thread(target=self._serve)]
        self._threads[0].start()

    def _serve(self):
        with contextlib.suppress(OSError):
            while True:
                link, _ = self._listener.accept()
                link.settimeout(PATIENCE)
                number = len(self.links)
                self.links.append(link)
                self.heard.append(b"")
                self.ends.append(None)
                self._threads.append(threading.Thread(target=self._talk, args=(number,)))
                self._threads[-1].start()

    def _talk(self, number):
        link = self.links[number]
        try:
            self._answer(self, number, link)
            self.ends[number] = "end"
        except ConnectionError:
            self.ends[number] = "reset"
        finally:
            link.close()

    def listen(self, number, link):
        """Collect all that comes."""
        while data := link.recv(65536):
            self.heard[number] += data

    def stop(self):
        """End all threads."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for link in self.links:
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE)
        for link in self.links:
            link.close()
        assert not any(thread.is_alive() for thread in self._threads)


@pytest.fixture
def serve():
    """Start servers: `serve(answer)`, where `answer(server, number, link)` talks to one connection."""
    with contextlib.ExitStack() as teardown:

        def start(answer):
            server = Server(answer)
            teardown.callback(server.stop)
            return server

        yield start


@pytest.fixture
def sink(serve):
    """Start a server that says nothing and collects all."""
    return serve(Server.listen)


@pytest.fixture
def echo(serve):
    """Start a server that says what it hears."""

    def answer(server, number, link):
        while data := link.recv(65536):
            server.heard[number] += data
            push(link, data)  # after a reset, what came before it can still be read

    return serve(answer)


def noise(size, seed=1):
    return random.Random(seed).randbytes(size)


@contextlib.contextmanager
def connected(proxy):
    with socket.create_connection(("127.0.0.1", proxy.port), PATIENCE) as link:
        yield link


def rest(link):
    """Collect what comes until the end, and say which end it was."""
    heard = b""
    try:
        while data := link.recv(65536):
            heard += data
    except ConnectionResetError:
        return heard, "reset"
    return heard, "end"


def converse(proxy, data):
    """Say something to an echo, and return what came back, and which end it was."""
    try:
        with connected(proxy) as link:
            push(link, data)
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_WR)
            return rest(link)
    except ConnectionResetError:  # as early as that
        return b"", "reset"


def silent(link):
    link.settimeout(QUIET)
    try:
        return link.recv(1) is None
    except TimeoutError:
        return True
    finally:
        link.settimeout(PATIENCE)


def push(link, data):
    """Send for as long as the other side takes it."""
    with contextlib.suppress(ConnectionError):
        link.sendall(data)


def test_without_a_fault_all_arrives_and_is_counted_both_ways(echo):
    data = noise(3_000_000)
    with Proxy(echo.port) as proxy, connected(proxy) as link:
        sender = threading.Thread(target=lambda: (link.sendall(data), link.shutdown(socket.SHUT_WR)))
        sender.start()
        assert rest(link) == (data, "end")
        sender.join()
        wait_until(lambda: proxy.connections[0].ended)
        assert (proxy.up, proxy.down, proxy.cuts) == (len(data), len(data), 0)
        assert echo.heard == [data]


def test_a_side_that_sends_no_more_still_receives(serve):
    def answer(server, number, link):
        server.listen(number, link)
        link.sendall(b"heard all")
        link.shutdown(socket.SHUT_WR)

    server = serve(answer)
    with Proxy(server.port) as proxy, connected(proxy) as link:
        link.sendall(b"all")
        link.shutdown(socket.SHUT_WR)
        assert rest(link) == (b"heard all", "end")
    assert server.heard == [b"all"]


@pytest.mark.parametrize("mode", ["rst", "fin"])
@pytest.mark.parametrize("at", [1, 2, 63, 64, 65, 1000, 65_535, 65_536, 65_537, 999_999, 1_000_000])
def test_a_cut_upwards_lets_exactly_the_bytes_before_it_arrive(sink, mode, at):
    data = noise(1_000_000)
    with Proxy(sink.port, Fault("up", at, mode)) as proxy, connected(proxy) as link:
        push(link, data)
        heard, end = rest(link)
        wait_until(lambda: sink.ends and sink.ends[0])
        assert sink.heard == [data[:at]]
        assert (proxy.up, proxy.connections[0].cut, heard) == (at, mode, b"")
        if mode == "rst":
            assert (end, sink.ends) == ("reset", ["reset"])
        else:
            assert sink.ends == ["end"]


@pytest.mark.parametrize("mode", ["rst", "fin"])
@pytest.mark.parametrize("at", [1, 64, 65_536, 999_999, 1_000_000])
def test_a_cut_downwards_lets_exactly_the_bytes_before_it_arrive(serve, mode, at):
    data = noise(1_000_000)
    server = serve(lambda server, number, link: (link.sendall(data), server.listen(number, link)))
    with Proxy(server.port, Fault("down", at, mode)) as proxy, connected(proxy) as link:
        assert rest(link) == (data[:at], "reset" if mode == "rst" else "end")
        assert proxy.down == at
        link.close()
        wait_until(lambda: proxy.connections[0].ended)
        wait_until(lambda: server.ends[0])


@pytest.mark.parametrize(("mode", "end"), [("rst", "reset"), ("fin", "end")])
@pytest.mark.parametrize("direction", ["up", "down", "both"])
def test_a_cut_before_the_first_byte_lets_none_arrive(echo, direction, mode, end):
    with Proxy(echo.port, Fault(direction, 0, mode)) as proxy:
        assert converse(proxy, b"abc") == (b"", end)
        wait_until(lambda: echo.ends and echo.ends[0])
        assert echo.heard == [b""]
        assert (proxy.up, proxy.down, proxy.cuts) == (0, 0, 1)


def test_each_offset_of_a_conversation_can_be_cut_at(echo):
    data = noise(48)
    for at in range(len(data) + 1):
        with Proxy(echo.port, Fault("both", at, "rst")) as proxy:
            # nothing comes back: what the client says gets there first, and that was it
            assert converse(proxy, data) == (b"", "reset")
            wait_until(lambda count=at + 1: len(echo.ends) == count and all(echo.ends))
            assert echo.heard[-1] == data[:at]
            assert (proxy.up, proxy.down) == (at, 0)


def test_a_reset_waits_for_a_slow_reader(serve):
    data = noise(300_000)
    go = threading.Event()
    server = serve(lambda server, number, link: (go.wait(PATIENCE), server.listen(number, link)))
    at = 50_000
    with Proxy(server.port, Fault("up", at, "rst")) as proxy, connected(proxy) as link:
        link.sendall(data[:at])
        assert rest(link) == (b"", "reset")
        go.set()
        wait_until(lambda: server.ends[0])
        assert server.heard == [data[:at]]
        assert proxy.up == at


def test_what_a_reader_has_no_room_for_is_not_counted_as_delivered(serve):
    go = threading.Event()

    def answer(server, number, link):
        go.wait(PATIENCE)
        server.listen(number, link)

    server = serve(answer)
    with Proxy(server.port) as proxy, connected(proxy) as link:
        link.settimeout(QUIET)
        with contextlib.suppress(TimeoutError):
            link.sendall(bytes(64_000_000))
        proxy.cut_now("rst")
        go.set()
        wait_until(lambda: server.ends[0])
        assert server.ends == ["reset"]
        assert len(server.heard[0]) == proxy.up < 64_000_000


def test_a_black_hole_forwards_nothing_and_closes_nothing(echo):
    data = noise(500)
    with Proxy(echo.port, Fault("up", 100, "hole")) as proxy, connected(proxy) as link:
        link.sendall(data)
        wait_until(lambda: proxy.cuts)
        wait_until(lambda: echo.heard and len(echo.heard[0]) == 100)
        link.sendall(data)
        echo.links[0].sendall(data)
        assert silent(link)
        assert (echo.heard, echo.ends) == ([data[:100]], [None])
        assert (proxy.up, proxy.down, proxy.connections[0].ended) == (100, 0, False)
    wait_until(lambda: echo.ends[0])  # the end of the proxy ends it


def test_a_peer_that_gives_up_in_a_black_hole_is_not_noticed(echo):
    with Proxy(echo.port, Fault("down", 1, "hole")) as proxy:
        with connected(proxy) as link:
            link.sendall(b"ab")
            assert link.recv(10) == b"a"
        with connected(proxy) as link:  # the network is fine for those who come later
            link.sendall(b"cd")
            assert link.recv(10) == b"cd"
        assert echo.ends[0] is None


def test_a_throttle_slows_down_what_follows_and_loses_nothing(sink):
    data = noise(20_000)
    with Proxy(sink.port, Fault("up", 10_000, "throttle", rate=20_000)) as proxy, connected(proxy) as link:
        began = time.monotonic()
        link.sendall(data)
        wait_until(lambda: sink.heard and len(sink.heard[0]) >= 10_000)
        wait_until(lambda: proxy.up == len(data))
        assert time.monotonic() - began > 0.4  # half a second by the rate: it cannot be faster
        wait_until(lambda: sink.heard == [data])


def test_a_delay_holds_back_each_piece_and_keeps_their_order(echo):
    with Proxy(echo.port, Fault("down", 2, "delay", seconds=0.2)) as proxy, connected(proxy) as link:
        link.sendall(b"ab")
        assert link.recv(10) == b"ab"
        began = time.monotonic()
        link.sendall(b"cd")
        wait_until(lambda: echo.heard == [b"abcd"])
        link.sendall(b"ef")
        link.shutdown(socket.SHUT_WR)
        heard = b""
        while len(heard) < 4:
            heard += link.recv(10)
        assert heard == b"cdef"
        assert time.monotonic() - began >= 0.2


def test_only_the_connection_that_is_meant_is_cut(echo):
    with Proxy(echo.port, Fault("up", 1, "rst", connection=1)) as proxy:
        for number in range(3):
            assert converse(proxy, b"abc") == ((b"", "reset") if number == 1 else (b"abc", "end"))
        assert [each.cut for each in proxy.connections] == [None, "rst", None]


def test_several_faults_meet_connections_of_their_own(echo):
    faults = (Fault("up", 1, "rst"), Fault("down", 2, "fin", connection=1))
    with Proxy(echo.port, *faults) as proxy:
        heard = [converse(proxy, b"abc") for _ in range(3)]
        assert heard == [(b"", "reset"), (b"ab", "end"), (b"abc", "end")]


def test_each_connection_is_cut_if_none_is_named(echo):
    with Proxy(echo.port, Fault("up", 1, "rst", connection=None)) as proxy:
        for _ in range(3):
            assert converse(proxy, b"abc") == (b"", "reset")
        assert (proxy.cuts, proxy.up) == (3, 3)


def test_some_connections_after_a_cut_are_refused(echo):
    with Proxy(echo.port, Fault("up", 1, "rst", refuse_after=2)) as proxy:
        heard = [converse(proxy, b"abc") for _ in range(5)]
        assert heard == [(b"", "reset")] * 3 + [(b"abc", "end")] * 2
        assert (proxy.refused, len(proxy.connections)) == (2, 3)
        wait_until(lambda: len(echo.links) == 3)


def test_for_some_time_after_a_cut_connections_are_refused(echo):
    with Proxy(echo.port, Fault("up", 1, "rst", refuse_for=0.3)) as proxy:
        began = time.monotonic()
        assert converse(proxy, b"abc") == (b"", "reset")
        wait_until(lambda: converse(proxy, b"abc") == (b"abc", "end"))
        assert time.monotonic() - began > 0.3


@pytest.mark.parametrize("mode", ["rst", "fin", "hole"])
def test_all_open_connections_are_cut_at_once(echo, mode):
    with Proxy(echo.port) as proxy, contextlib.ExitStack() as links:
        opened = [links.enter_context(connected(proxy)) for _ in range(3)]
        for link in opened:
            link.sendall(b"abc")
            assert link.recv(3, socket.MSG_WAITALL) == b"abc"
        proxy.cut_now(mode)
        assert [each.cut for each in proxy.connections] == [mode] * 3
        assert (proxy.up, proxy.down) == (9, 9)
        for link in opened:
            if mode == "hole":
                link.sendall(b"d")
                assert silent(link)
            else:
                assert rest(link) == (b"", "reset" if mode == "rst" else "end")
        with connected(proxy) as link:
            link.sendall(b"abc")
            assert link.recv(3, socket.MSG_WAITALL) == b"abc"


def test_a_black_hole_can_be_ended_by_a_reset(echo):
    with Proxy(echo.port, Fault("up", 1, "hole")) as proxy, connected(proxy) as link:
        link.sendall(b"abc")
        wait_until(lambda: proxy.cuts)
        proxy.cut_now("rst")
        assert rest(link)[1] == "reset"
        wait_until(lambda: echo.ends == ["reset"])
        assert echo.heard == [b"a"]


def test_while_it_pauses_new_connections_wait_and_old_ones_go_on(echo):
    with Proxy(echo.port) as proxy, connected(proxy) as old:
        old.sendall(b"a")
        assert old.recv(1) == b"a"
        proxy.pause()
        with connected(proxy) as late:
            late.sendall(b"c")
            assert silent(late)
            old.sendall(b"b")
            assert old.recv(1) == b"b"
            assert len(proxy.connections) == 1
            proxy.resume()
            assert late.recv(1) == b"c"


def test_a_port_without_a_listener_is_a_refusal():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody else's, and not listened on
        with Proxy(taken.getsockname()[1]) as proxy:
            assert converse(proxy, b"") == (b"", "reset")
            assert (proxy.refused, proxy.connections) == (1, [])


def test_an_end_by_reset_is_handed_on(serve):
    server = serve(lambda server, number, link: server.listen(number, link))
    with Proxy(server.port) as proxy:
        link = socket.create_connection(("127.0.0.1", proxy.port), PATIENCE)
        link.sendall(b"abc")
        wait_until(lambda: server.heard == [b"abc"])
        link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        link.close()
        wait_until(lambda: server.ends == ["reset"])


def test_faults_that_mean_nothing_are_refused():
    for wrong in ({"mode": "throttle"}, {"mode": "rst", "seconds": 1}, {"mode": "delay"}, {"mode": "fin", "at": -1}):
        with pytest.raises(ValueError, match=r"belongs|first"):
            Fault(**{"direction": "up", "at": 0, **wrong})


def test_a_hundred_random_conversations_with_random_cuts_are_counted_exactly(echo):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    for count in range(1, 101):
        data = chance.randbytes(chance.randrange(2, 200_000))
        fault = Fault(
            chance.choice(["up", "down", "both"]), chance.randrange(1, len(data)), chance.choice(["rst", "fin"])
        )
        with Proxy(echo.port, fault) as proxy, connected(proxy) as link:
            sender = threading.Thread(target=push, args=(link, data))
            sender.start()
            heard, _ = rest(link)
            link.close()
            sender.join()
            wait_until(lambda count=count: len(echo.ends) == count and all(echo.ends))
            wait_until(lambda proxy=proxy: proxy.connections[0].ended)
        told = proxy.connections[0]
        assert heard == data[: told.down], fault
        assert echo.heard[-1] == data[: told.up], fault
        assert fault.at in (told.up, told.down), fault


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    """One sshd behind all the proxies here."""
    with FakeHost("medusa.univ.run", tmp_path_factory.mktemp("behind")) as host:
        yield host


def ssh(configuration, host, command):
    return subprocess.run(
        ["ssh", "-F", configuration, host.name, command], stdin=subprocess.DEVNULL, capture_output=True, check=False,
        timeout=PATIENCE,
    )  # fmt: skip


def test_ssh_goes_through_the_proxy_with_strict_host_keys(host):
    with Proxy(host.port) as proxy:
        done = ssh(through(host, proxy), host, "echo there")
        assert (done.returncode, done.stdout) == (0, b"there\n"), done.stderr
        assert proxy.up > 1000
        assert proxy.down > 1000


def test_ssh_notices_a_black_hole_within_its_configured_time(host):
    with Proxy(host.port) as proxy:
        configuration = through(host, proxy, alive=1, alive_count=1)
        command = ["ssh", "-F", configuration, host.name, "echo there; exec sleep 60"]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
            assert run.stdout
            assert run.stdout.readline() == b"there\n"
            proxy.cut_now("hole")
            assert run.wait(PATIENCE) == 255
    wait_until(lambda: not host.connections())


def test_an_operator_goes_through_the_proxy(host, tmp_path):
    tree = plant(tmp_path / "tree", {"scripts/hello": script(body="echo hello"), "univ.run/medusa/default": "hello\n"})
    with Proxy(host.port) as proxy:
        operator = Operator(tmp_path / "operator", through(host, proxy))
        done = operator.deploy(tree)
        assert (done.status, done.output) == (0, "hello\n"), done.talk
        assert len(proxy.connections) == 1
