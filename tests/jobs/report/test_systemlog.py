"""Lines for the log of the system: byte-exact to a real socket, a warning for anything else, and no waiting (J20)."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from runsdeploy.jobs.report.systemlog import ERROR, LONGEST, Line, send
from tests.jobs.system import open_files

RUN = "20261025T003000Z-a1b2c3"
ANY = st.text(st.characters())
RELAXED = settings(suppress_health_check=list(HealthCheck), deadline=None)


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("log") / "socket")


@pytest.fixture
def receiver(place: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind(place)
        bound.settimeout(60)
        yield bound


def fields(datagram: bytes) -> dict[str, bytes]:
    """Read journald's native protocol; no field twice."""
    found: dict[str, bytes] = {}
    while datagram:
        head, _, datagram = datagram.partition(b"\n")
        if b"=" in head:
            name, _, value = head.partition(b"=")
        else:
            name, size = head, int.from_bytes(datagram[:8], "little")
            value, end, datagram = datagram[8 : 8 + size], datagram[8 + size : 9 + size], datagram[9 + size :]
            assert len(value) == size
            assert end == b"\n"
        assert re.fullmatch(rb"[A-Z][A-Z0-9_]*", name)
        assert name.decode() not in found
        found[name.decode()] = value
    return found


def waiting(receiver: socket.socket) -> int:
    """Take what is queued; return how many datagrams that were."""
    receiver.settimeout(0)
    for taken in range(1_000_000):
        try:
            receiver.recv(65536)
        except BlockingIOError:
            return taken
    raise AssertionError("no end of datagrams")


def test_nothing_is_sent_nowhere(receiver: socket.socket, place: str):
    assert send("", [Line("x")], RUN, place) == ""
    assert waiting(receiver) == 0


def test_the_journal_gets_every_field(receiver: socket.socket, place: str):
    assert send("journal", [Line("job failed", ERROR, "sd_changed_at"), Line("a\nb=c\n")], RUN, place) == ""
    assert fields(receiver.recv(65536)) == {
        "PRIORITY": b"3",
        "SYSLOG_IDENTIFIER": b"runsdeploy-jobs",
        "RUNSDEPLOY_RUN": RUN.encode(),
        "RUNSDEPLOY_JOB": b"sd_changed_at",
        "MESSAGE": b"job failed",
    }
    second = fields(receiver.recv(65536))
    assert second["MESSAGE"] == b"a\nb=c\n"
    assert "RUNSDEPLOY_JOB" not in second


@RELAXED
@example("x\nPRIORITY=0\nMESSAGE=all well", "y\n_UID=0")
@example("\udcff\n\udc80", "\ud800")
@example("\x1b]52;c;x\x07\x00", "=")
@given(ANY, ANY)
def test_the_journal_gets_any_bytes_and_no_field_of_a_messages_choosing(
    receiver: socket.socket, place: str, message: str, job: str
):
    assert send("journal", [Line("." + message, job=job)], RUN, place) == ""
    found = fields(receiver.recv(1 << 20))
    assert set(found) <= {"PRIORITY", "SYSLOG_IDENTIFIER", "RUNSDEPLOY_RUN", "RUNSDEPLOY_JOB", "MESSAGE"}
    assert found["PRIORITY"] == b"6"
    try:
        assert found["MESSAGE"] == os.fsencode("." + message)
    except UnicodeEncodeError:
        assert found["MESSAGE"].startswith(b".")


def test_syslog_gets_a_line_of_rfc_3164(receiver: socket.socket, place: str):
    assert send("syslog", [Line("job failed", ERROR, "sd_changed_at"), Line("done")], RUN, place) == ""
    head = rb"<(\d+)>(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) [ 123]\d \d\d:\d\d:\d\d "
    first = re.fullmatch(head + rb"runsdeploy-jobs\[(\d+)\]: (.*)", receiver.recv(65536))
    assert first
    assert first.groups() == (b"75", str(os.getpid()).encode(), f"{RUN} sd_changed_at: job failed".encode())
    second = re.fullmatch(head + rb"runsdeploy-jobs\[\d+\]: (.*)", receiver.recv(65536))
    assert second
    assert second.groups() == (b"78", f"{RUN}: done".encode())


@RELAXED
@example("x\n<0>Jan  1 00:00:00 kernel: panic", "\r")
@example("\x1b[2J\x07\x00\x7f\x9b\u2028\u202e", "\udcff")
@given(ANY, ANY)
def test_J8_syslog_gets_one_printable_line_whatever_the_message(
    receiver: socket.socket, place: str, message: str, job: str
):
    assert send("syslog", [Line(message, job=job)], RUN, place) == ""
    data = receiver.recv(1 << 20)
    assert data.decode("utf-8").isprintable()
    assert data.startswith(b"<78>")
    assert len(data) <= 1024


@pytest.mark.parametrize("where", ["journal", "syslog"])
@pytest.mark.parametrize("piece", ["x", "é", "€", "\U0001f600", "\x1b", "\udc80", "a\n"])
def test_S17_a_long_message_is_cut_between_characters_and_says_so(
    receiver: socket.socket, place: str, where: str, piece: str
):
    for start in range(4):
        assert send(where, [Line("." * start + piece * 5_000_000)], RUN, place) == ""
        data = receiver.recv(1 << 20)
        message = fields(data)["MESSAGE"] if where == "journal" else data
        assert LONGEST[where] - 16 <= len(message) <= LONGEST[where]
        assert message.endswith(b" [cut]")
        if piece.isprintable():
            message.decode("utf-8")


def test_a_message_of_the_greatest_length_is_not_cut(receiver: socket.socket, place: str):
    assert send("journal", [Line("x" * LONGEST["journal"])], RUN, place) == ""
    assert fields(receiver.recv(1 << 20))["MESSAGE"] == b"x" * LONGEST["journal"]


@pytest.mark.parametrize("where", ["journal", "syslog"])
def test_J20_no_socket_no_receiver_no_socket_file_no_name_are_warnings(tmp_path: Path, where: str):
    (tmp_path / "file").touch()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as gone:
        gone.bind(str(tmp_path / "gone"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
        stream.bind(str(tmp_path / "stream"))
        stream.listen(1)
        places = [
            *(str(tmp_path / each) for each in ("none", "file", "gone", "stream", "")),
            "x" * 200,
            "a\0b",
            "\udcff\n",
        ]
        for place in places:
            warning = send(where, [Line("a"), Line("b")], RUN, place)
            assert warning.startswith("2 of 2 lines were not accepted by the system log at `"), place
            assert warning.isprintable()


def test_J20_an_unknown_place_is_a_warning():
    assert "expected `journal`, `syslog` or nothing" in send("sysl\nog", [Line("a")], RUN)


def test_J20_a_missing_log_of_the_system_is_a_warning_or_none(tmp_path: Path):
    assert isinstance(send("journal", [], RUN, str(tmp_path / "none")), str)


@pytest.mark.parametrize("timeout", [0.0, 0.2])
@pytest.mark.parametrize("where", ["journal", "syslog"])
def test_J20_a_stuck_receiver_is_not_waited_for_and_the_lost_lines_are_counted(
    receiver: socket.socket, place: str, where: str, timeout: float
):
    warning = send(where, [Line(str(number)) for number in range(2000)], RUN, place, timeout)
    taken = waiting(receiver)
    assert 0 < taken < 2000
    assert warning.startswith(f"{2000 - taken} of 2000 lines were not accepted by the system log at `{place}`: ")


def test_a_receiver_that_reads_gets_more_lines_than_the_kernel_queues(receiver: socket.socket, place: str):
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.extend(receiver.recv(65536) for _ in range(2000)))
    reader.start()
    assert send("journal", [Line(str(number)) for number in range(2000)], RUN, place, 60) == ""
    reader.join()
    assert [fields(each)["MESSAGE"] for each in got] == [str(number).encode() for number in range(2000)]


def test_no_descriptor_is_left_open(receiver: socket.socket, place: str):
    before = open_files()
    for where in ("journal", "syslog"):
        send(where, [Line("a")], RUN, place)
        send(where, [Line("a")], RUN, place + "x")
        receiver.recv(65536)
    assert open_files() <= before


OTHERS = [
    path
    for version in ("3.6", "3.8", "3.13")
    for path in sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
]


@pytest.mark.parametrize("python", [Path(sys.executable), *OTHERS], ids=lambda path: path.parts[-3])
def test_every_python_sends_out_of_a_zip_with_an_empty_environment(
    tmp_path: Path, receiver: socket.socket, place: str, python: Path
):
    package = Path(__file__).parents[3] / "runsdeploy/jobs"
    with zipfile.ZipFile(tmp_path / "jobs.zip", "w") as archive:
        for file in package.rglob("*.py"):
            archive.write(file, f"jobs/{file.relative_to(package)}")
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from jobs.report.systemlog import *\n"
        "lines = [Line('a\\nb \\udcff', ERROR, 'x')]\n"
        "assert send('journal', lines, 'ID', sys.argv[2]) == send('syslog', lines, 'ID', sys.argv[2]) == ''\n"
        "assert send('syslog', lines, 'ID', sys.argv[2] + 'x')\n"
    )
    argv = [str(python), "-I", "-W", "error", "-c", program, str(tmp_path / "jobs.zip"), place]
    subprocess.run(argv, check=True, timeout=60, env={})
    assert fields(receiver.recv(65536))["MESSAGE"] == b"a\nb \xff"
    assert receiver.recv(65536).endswith(b"]: ID x: a\\nb \\udcff")
