"""Capture of the output of a command, for a log: in lines, of limited size, its head and its tail kept (J8)."""

import io
import tempfile
from contextlib import suppress
from typing import IO, Callable, Iterator, Optional, Union, cast

PIECE = 64 * 1024
"""bytes read, or passed to the sink, at once"""
IN_MEMORY = 512 * 1024
"""bytes of the tail that are kept where no disk space is available"""


class Capture:
    """Passes output to a sink in lines, up to a limit (J8)."""

    def __init__(self, sink: Callable[[bytes], None], limit: int, spool: Optional[str]) -> None:
        self._sink = sink
        self._head = limit // 10
        self._tail = _Tail(limit - self._head, spool)
        self._rest = bytearray()
        self._open = False  # the last line passed to the sink has no line end yet
        self._gap = 0  # bytes lost since the sink last accepted some
        self._dropped = 0

    def write(self, data: bytes) -> None:
        """Add output of the command."""
        now = data[: self._head]
        self._head -= len(now)
        self._split(now)
        self._tail.write(data[len(now) :])

    def note(self, text: str) -> None:
        """Add a line of the runner after all output so far."""
        self._flush_tail()
        self._write_note(text)

    def close(self) -> int:
        """Pass on all that is buffered; return how many bytes of output the sink did not receive."""
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
        """Pass on whole lines, as many as fit into a piece; a longer line is split."""
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
        except OSError:  # the disk of the log is full: the job goes on without its log (J3)
            self._gap += len(data) * counts
            self._dropped += len(data) * counts


class _Tail:
    """The last bytes of a stream, in a ring buffer: an unnamed file, which no crash leaves behind, or memory."""

    def __init__(self, capacity: int, directory: Optional[str]) -> None:
        self._whole, self._directory = capacity, directory
        self._file: Optional[IO[bytes]] = None
        self.clear()

    def clear(self) -> None:
        """Empty the buffer; it uses no space until the next write."""
        self._close()
        self._capacity = self._whole
        self._end = 0
        self.offered = self.size = self.returned = 0

    def write(self, data: bytes) -> None:
        """Add bytes; the oldest are dropped if the buffer is full."""
        self.offered += len(data)
        view = memoryview(data)[-self._capacity :] if self._capacity else b""
        while len(view):
            try:
                view = view[self._put(view) :]
            except OSError:
                self._to_memory()

    def pieces(self) -> Iterator[bytes]:
        """Yield the buffered bytes in order; bytes that cannot be read back do not count as `returned`."""
        start = self._end if self.size == self._capacity else 0
        with suppress(OSError):
            for at, last in ((start, self.size), (0, start)):
                yield from self._read(at, last)

    def _to_memory(self) -> None:
        """Continue in memory: the disk is full or gone."""
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
        """Write up to the end of the ring; return the number of bytes written."""
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

    def _read(self, at: int, last: int) -> Iterator[bytes]:
        while at < last and self._file is not None:
            self._file.seek(at)
            data = self._file.read(min(PIECE, last - at))
            if not data:
                return
            at += len(data)
            self.returned += len(data)
            yield data
