"""Capture of a command on its way to a log: in lines, bounded, its head and its tail kept (J8)."""

import io
import tempfile
from typing import IO, Callable, Iterator, Optional, Union, cast

PIECE = 64 * 1024
"""bytes: the most that is read, or handed on, at once"""
IN_MEMORY = 512 * 1024
"""bytes of the end of the output that are kept where there is no disk for more"""


class Capture:
    """Capture on its way to the sink: in lines, and no more than the limit (J8)."""

    def __init__(self, sink: Callable[[bytes], None], limit: int, spool: Optional[str]) -> None:
        self._sink = sink
        self._head = limit // 10
        self._tail = _Tail(limit - self._head, spool)
        self._rest = bytearray()
        self._open = False  # the sink's last line has no end yet
        self._gap = 0  # bytes refused since the sink last took some
        self._dropped = 0

    def write(self, data: bytes) -> None:
        """Take output of the command."""
        now = data[: self._head]
        self._head -= len(now)
        self._split(now)
        self._tail.write(data[len(now) :])

    def note(self, text: str) -> None:
        """Put a line of the runner behind all output so far."""
        self._flush_tail()
        self._write_note(text)

    def close(self) -> int:
        """Hand on all that is held; returns how many bytes of output the sink has not got."""
        self._flush_tail()
        self._deliver(bytes(self._rest))
        self._rest.clear()
        self._deliver(b"")
        return self._dropped

    def _flush_tail(self) -> None:
        dropped = self._tail.offered - self._tail.size
        if dropped:
            self._write_note(f"{dropped} bytes of output dropped here")
        for data in self._tail.pieces():
            self._split(data)
        self._dropped += self._tail.offered - self._tail.returned
        self._tail.clear()

    def _write_note(self, text: str) -> None:
        self._deliver(bytes(self._rest))
        self._rest.clear()
        line = "[{}]\n".format(text.replace("\n", "\\n")).encode("utf-8", "surrogateescape")
        self._deliver(b"\n" + line if self._open else line, counts=0)

    def _split(self, data: bytes) -> None:
        """Hand on whole lines, as many as fit; what is too long for one piece is cut."""
        self._rest += data
        if b"\n" not in data and len(self._rest) < PIECE:
            return
        while True:
            cut = self._rest.rfind(b"\n", 0, PIECE) + 1 or PIECE
            if cut > len(self._rest):
                return
            self._deliver(bytes(self._rest[:cut]))
            del self._rest[:cut]

    def _deliver(self, data: bytes, counts: int = 1) -> None:
        try:
            if self._gap:
                self._sink(f"\n[{self._gap} bytes of output could not be written here]\n".encode("ascii"))
                self._gap, self._open = 0, False
            if data:
                self._sink(data)
                self._open = not data.endswith(b"\n")
        except OSError:  # the log's disk is full: the job is worth more than its log (J3)
            self._gap += len(data) * counts
            self._dropped += len(data) * counts


class _Tail:
    """The last bytes of a stream, as a ring: in an unnamed file that no crash leaves behind, else in memory."""

    def __init__(self, capacity: int, directory: Optional[str]) -> None:
        self._whole, self._directory = capacity, directory
        self._file: Optional[IO[bytes]] = None
        self.clear()

    def clear(self) -> None:
        """Forget all; nothing is taken up to the next write."""
        self._close()
        self._capacity = self._whole
        self._end = 0
        self.offered = self.size = self.returned = 0

    def write(self, data: bytes) -> None:
        """Take bytes; the oldest make room."""
        self.offered += len(data)
        view = memoryview(data)[-self._capacity :] if self._capacity else b""
        while len(view):
            try:
                view = view[self._put(view) :]
            except OSError:
                self._to_memory()

    def pieces(self) -> Iterator[bytes]:
        """Yield what is held, in order; what the disk does not give back is not `given`."""
        start = self._end if self.size == self._capacity else 0
        try:
            for first, last in ((start, self.size), (0, start)):
                yield from self._read(first, last)
        except OSError:
            return

    def _to_memory(self) -> None:
        """Go on without a disk: it is full, or away."""
        last = b""
        for data in self.pieces():
            last = (last + data)[-IN_MEMORY:]
        self._close()
        self._capacity = min(self._capacity, IN_MEMORY)
        self._file = io.BytesIO()
        self._end = self.size = self._file.write(last)
        self.returned = 0

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _put(self, data: Union[bytes, memoryview]) -> int:
        """Write up to the end of the ring at most; returns how much."""
        if self._file is None and self._directory is not None:
            self._file = tempfile.TemporaryFile(dir=self._directory, buffering=0)  # noqa: SIM115 -- as long as the ring
        elif self._file is None:
            self._to_memory()
        file = cast("IO[bytes]", self._file)
        self._end %= self._capacity
        file.seek(self._end)
        count = file.write(data[: self._capacity - self._end])
        self._end += count
        self.size = max(self.size, self._end)
        return count

    def _read(self, first: int, last: int) -> Iterator[bytes]:
        while first < last and self._file is not None:
            self._file.seek(first)
            data = self._file.read(min(PIECE, last - first))
            if not data:
                return
            first += len(data)
            self.returned += len(data)
            yield data
