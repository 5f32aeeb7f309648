"""The system log: lines for the journal of systemd or for syslog.

It comes in addition to the log file; lines that cannot be sent are a warning, and a run does not wait for them (J20).
"""

import errno
import os
import select
import socket
import struct
import time
from typing import NamedTuple, Optional, Sequence, Tuple

from ..errors import reason

IDENTIFIER = "runsdeploy-jobs"
ERROR, WARNING, NOTICE, INFO = 3, 4, 5, 6
"""priorities of syslog and the journal"""
PLACES = {"journal": "/run/systemd/journal/socket", "syslog": "/dev/log"}
LONGEST = {"journal": 16 * 1024, "syslog": 1024}
"""bytes of a message in the journal, of a whole syslog line (RFC 3164): receivers drop longer ones (S17)"""
TIMEOUT = 0.5
"""seconds for all lines together if the queue of the receiver is full: it may hold 10, and a summary has more"""

_CRON = 9 << 3
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_CUT = " [cut]"


class Line(NamedTuple):
    """One line for the system log."""

    message: str
    priority: int = INFO
    job: str = ""
    """the job it is about; empty for the run itself"""


def send(where: str, lines: Sequence[Line], run: str, path: str = "", timeout: float = TIMEOUT) -> str:
    """Send lines of a run to `where`: `journal`, `syslog`, or empty for neither; return a warning or nothing.

    Never raises, and takes at most `timeout` seconds (J20). `path` overrides the path of the socket.
    """
    if not where:
        return ""
    if where not in PLACES:
        return f"lines for the system log were not sent: found `{where!a}`, expected `journal`, `syslog` or nothing"
    encode = _journal if where == "journal" else _syslog
    place = path or PLACES[where]
    try:
        lost, why = _deliver([encode(line, run) for line in lines], place, time.monotonic() + timeout)
    except OSError as error:
        lost, why = len(lines), reason(error)
    except Exception as error:  # noqa: BLE001 - no error of the system log may fail the run (J20)
        lost, why = len(lines), type(error).__name__
    if not lost:
        return ""
    return f"{lost} of {len(lines)} lines were not accepted by the system log at `{_printable(place)}`: {why}"


def _deliver(datagrams: Sequence[bytes], place: str, deadline: float) -> Tuple[int, str]:
    """Send each datagram; return how many were not accepted, and why the last one was not."""
    lost, why = 0, ""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.settimeout(0)
        receiver.connect(place)
        for datagram in datagrams:
            error = _send_datagram(receiver, datagram, deadline)
            if error:
                lost, why = lost + 1, reason(error)
    return lost, why


def _send_datagram(receiver: socket.socket, datagram: bytes, deadline: float) -> Optional[OSError]:
    """Send a datagram, waiting until the deadline; return the error if it was not accepted."""
    room = select.poll()
    room.register(receiver, select.POLLOUT)
    while True:
        try:
            receiver.send(datagram)
        except OSError as error:
            left = deadline - time.monotonic()
            if error.errno != errno.EAGAIN or left <= 0:
                return error
            room.poll(left * 1000)
        else:
            return None


def _journal(line: Line, run: str) -> bytes:
    """Return a datagram of the native protocol of journald; bytes are kept."""
    fields = [
        ("PRIORITY", str(line.priority)),
        ("SYSLOG_IDENTIFIER", IDENTIFIER),
        ("RUNSDEPLOY_RUN", run),
        ("RUNSDEPLOY_JOB", line.job),
        ("MESSAGE", line.message),
    ]
    return b"".join(_field(name, value) for name, value in fields if value)


def _field(name: str, value: str) -> bytes:
    data = _cut(value, LONGEST["journal"])
    if b"\n" not in data:
        return name.encode("ascii") + b"=" + data + b"\n"
    # In the plain form, a line break would let the message add fields.
    return name.encode("ascii") + b"\n" + struct.pack("<Q", len(data)) + data + b"\n"


def _syslog(line: Line, run: str) -> bytes:
    """Return a line of RFC 3164 without host name, as libc sends it; always one printable line."""
    longest = LONGEST["syslog"]
    now = time.localtime()
    date = f"{_MONTHS[now.tm_mon - 1]} {now.tm_mday:2} {time.strftime('%H:%M:%S', now)}"
    about = f"{run} {line.job}" if line.job else run
    text = _printable(f"{about}: {line.message[:longest]}")
    return _cut(f"<{_CRON | line.priority}>{date} {IDENTIFIER}[{os.getpid()}]: {text}", longest)


def _cut(text: str, longest: int) -> bytes:
    """Return the text in UTF-8; if it is too long, cut at a character boundary and marked."""
    data = _bytes(text[: longest + 1])
    if len(data) <= longest:
        return data
    end = longest - len(_CUT)
    while end > longest - len(_CUT) - 3 and data[end] & 0xC0 == 0x80:  # noqa: PLR2004 - not the first byte of a character
        end -= 1
    return data[:end] + _CUT.encode("ascii")


def _bytes(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # a surrogate that stands for no byte, as in JSON
        return text.encode("utf-8", "backslashreplace")


def _printable(text: str) -> str:
    r"""Return the text with unprintable characters escaped as \x1b, \u2028, so that they cannot forge lines."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in text)
