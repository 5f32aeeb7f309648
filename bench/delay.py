"""A private network with a fixed delay: two network namespaces, a TUN device in each, packets held up between.

The namespaces have no name and no way out: they live as long as a process or a descriptor refers to them, so
nothing is left of them whatever ends the benchmark. As a program, `delay.py FD FD SECONDS`, this is what carries
the packets; it ends when its standard input does.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import select
import shutil
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CLONE_NEWNET = 0x40000000
TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
DEVICE = "tun0"
CLIENT, SERVER = "198.18.0.1", "198.18.0.2"  # RFC 2544: set aside for benchmarks
MTU = 1500
QUEUE = 20000
"""packets a device holds: enough for some tens of MB/s, so that none is dropped"""


class NetworkError(Exception):
    """There can be no private network here."""


@dataclass(frozen=True)
class Namespace:
    """A network namespace, by a descriptor that keeps it alive."""

    descriptor: int

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Be in it; sockets and processes made meanwhile by this thread stay there."""
        before = _own()
        try:
            _call("setns", self.descriptor, CLONE_NEWNET)
            try:
                yield
            finally:
                _call("setns", before, CLONE_NEWNET)
        finally:
            os.close(before)


@dataclass(frozen=True)
class Network:
    """Two namespaces with a delay between them."""

    client: Namespace
    server: Namespace


@contextlib.contextmanager
def network(round_trip: float) -> Iterator[Network]:
    """Make two namespaces whose packets take half of `round_trip` seconds each way."""
    missing = reason_against()
    if missing:
        raise NetworkError(missing)
    with contextlib.ExitStack() as undo:
        ends: list[Namespace] = []
        devices: list[int] = []
        for own, other in ((CLIENT, SERVER), (SERVER, CLIENT)):
            namespace = Namespace(_new())
            undo.callback(os.close, namespace.descriptor)
            with namespace.entered():
                device = _tun()
                undo.callback(os.close, device)
                _ip("link", "set", "lo", "up")
                _ip("address", "add", own, "peer", other, "dev", DEVICE)
                _ip("link", "set", DEVICE, "mtu", str(MTU), "txqueuelen", str(QUEUE), "up")
            ends.append(namespace)
            devices.append(device)
        carrier = subprocess.Popen(
            [sys.executable, __file__, *map(str, devices), str(round_trip / 2)],
            stdin=subprocess.PIPE,
            pass_fds=devices,
            start_new_session=True,  # Ctrl-C is for us; it ends when we close its input
        )
        undo.callback(_end, carrier)
        yield Network(*ends)


def reason_against() -> str:
    """Say why there can be no private network here; empty if there can."""
    if os.geteuid() != 0:
        return "latency is left out: it takes root to make network namespaces"
    if not shutil.which("ip"):
        return "latency is left out: there is no `ip`; install the package `iproute2`"
    if not Path("/dev/net/tun").exists():
        return "latency is left out: there is no /dev/net/tun; `modprobe tun` makes it"
    return ""


def _end(carrier: subprocess.Popen[bytes]) -> None:
    if carrier.stdin:
        carrier.stdin.close()
    try:
        carrier.wait(5)
    except subprocess.TimeoutExpired:
        carrier.kill()
        carrier.wait()


def _call(name: str, *arguments: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)  # os.setns and os.unshare came with Python 3.12
    if getattr(library, name)(*arguments):
        number = ctypes.get_errno()
        raise NetworkError(f"{name}: {os.strerror(number)}")


def _own() -> int:
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _new() -> int:
    """Make a namespace, in a thread that ends: ours stays where it is."""
    made: list[int] = []
    failed: list[Exception] = []

    def make() -> None:
        try:
            _call("unshare", CLONE_NEWNET)
            made.append(_own())
        except (NetworkError, OSError) as error:
            failed.append(error)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    if failed:
        raise NetworkError(f"cannot make a network namespace: {failed[0]}") from failed[0]
    return made[0]


def _tun() -> int:
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", DEVICE.encode(), IFF_TUN | IFF_NO_PI))
    except OSError as error:
        os.close(device)
        raise NetworkError(f"cannot make a TUN device: {error.strerror}") from error
    return device


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise NetworkError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


# --- the program that carries the packets ------------------------------------------------------------


def carry(first: int, second: int, delay: float) -> None:
    """Pass packets between two devices, each `delay` seconds later, until standard input ends."""
    other = {first: second, second: first}
    queues: dict[int, deque[tuple[float, bytes]]] = {first: deque(), second: deque()}  # a fixed delay keeps the order
    sources = [first, second, sys.stdin.fileno()]
    while True:
        due = min((queue[0][0] for queue in queues.values() if queue), default=None)
        wait = None if due is None else max(0.0, due - time.monotonic())
        ready = select.select(sources, [], [], wait)[0]
        if sys.stdin.fileno() in ready:
            return
        for source in ready:
            _take(source, queues[other[source]], delay)
        for target, queue in queues.items():
            _deliver(target, queue)


def _take(source: int, queue: deque[tuple[float, bytes]], delay: float) -> None:
    with contextlib.suppress(BlockingIOError):
        for _ in range(64):
            packet = os.read(source, 65536)
            queue.append((time.monotonic() + delay, packet))


def _deliver(target: int, queue: deque[tuple[float, bytes]]) -> None:
    now = time.monotonic()
    while queue and queue[0][0] <= now:
        with contextlib.suppress(OSError):  # a full device drops it, as a router would
            os.write(target, queue[0][1])
        queue.popleft()


if __name__ == "__main__":
    carry(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
