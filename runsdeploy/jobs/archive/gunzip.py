"""Decompression of gzip files, never more bytes than requested: a decompression bomb cannot fill a disk (S17)."""

import os
import stat
import zlib
from typing import IO, Iterator

from .manifest import Damaged

CHUNK = 256 * 1024
"""bytes read at once"""
_GZIP = 31
"""`wbits` of zlib for a gzip header, the data, and the checksum and length at the end"""


class GzipReader:
    """Reads the decompressed bytes of one gzip stream.

    Unlike `gzip.GzipFile` it accepts no zeros and no second stream after the end, and `read` returns exactly the
    requested number of bytes.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._zlib = zlib.decompressobj(wbits=_GZIP)

    def read(self, size: int) -> bytes:
        """Return exactly `size` bytes; raises Damaged if there are fewer."""
        parts = []
        while size:
            part = self.read_some(size)
            if not part:
                raise Damaged("is cut off")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def read_some(self, most: int) -> bytes:
        """Return between one byte and `most` bytes, and no byte only at the end; raises Damaged."""
        while not self._zlib.eof:
            waiting = self._zlib.unconsumed_tail or self._file.read(CHUNK)
            try:
                part = self._zlib.decompress(waiting, min(most, CHUNK))
            except zlib.error as error:
                raise Damaged(f"cannot be decompressed: {error}") from None
            if part:
                return part
            if not waiting and not self._zlib.eof:
                raise Damaged("is cut off")
        return b""

    def expect_end(self) -> None:
        """Raise Damaged unless the stream and the file end here."""
        if self.read_some(1) or self._zlib.unused_data or self._file.read(1):
            raise Damaged("has data after its end")


def open_archive(path: str) -> IO[bytes]:
    """Open a regular file for reading, never a link, never waiting for a fifo; raises OSError or Damaged."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Damaged("is not a regular file")
    return os.fdopen(descriptor, "rb")


def chunks(file: IO[bytes], most: float = float("inf")) -> Iterator[bytes]:
    """Yield the rest of a file, up to `most` bytes."""
    while most > 0:
        part = file.read(int(min(most, CHUNK)))
        if not part:
            return
        most -= len(part)
        yield part
