"""File names of markers, and the answers of `shouldrun` from markers (R35)."""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runsdeploy.events import MarkerFound
from runsdeploy.markers.marker import LONGEST, Markers, encode, name_of, path_of

BYTES = st.lists(st.integers(1, 255), max_size=80).map(bytes)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"web", "web"),
        (b"web/nginx", "web%2Fnginx"),
        (b".", "%2E"),
        (b"..", "%2E."),
        (b"a.b", "a.b"),
        (b"\n.a", "%0A.a"),
        (b"%2F", "%252F"),
        (b"-rf", "-rf"),
        ("é".encode(), "%C3%A9"),
        (b"\xff ~", "%FF%20%7E"),
        (b"", ""),
    ],
)
def test_r35_a_name_is_percent_encoded(data: bytes, name: str):
    assert name_of(data) == name


@given(BYTES)
def test_r35_encoding_can_be_taken_back(data: bytes):
    assert unquote_to_bytes(encode(data)) == data
    assert re.fullmatch(r"(?!\.)[A-Za-z0-9_.%-]*", encode(data))


@given(st.lists(st.integers(0, 255), max_size=400).map(bytes), st.lists(st.integers(0, 255), max_size=400).map(bytes))
def test_r35_t16_two_names_never_share_a_file(one: bytes, two: bytes):
    assert (name_of(one) == name_of(two)) == (one == two)


def test_r35_t16_names_that_differ_only_at_their_end_or_look_like_shortened_ones_are_kept_apart():
    long = b"a" * 5000
    names = [long, long + b"b", name_of(long).encode(), b"a" * LONGEST, b"a" * (LONGEST + 1)]
    assert len({name_of(name) for name in names}) == len(names)


@given(st.lists(st.integers(0, 255), max_size=2000).map(bytes), BYTES)
def test_r35_t16_a_path_has_two_components_that_a_file_system_takes(script: bytes, subsystem: bytes):
    parts = path_of(script or b"s", subsystem).split("/")
    assert len(parts) == 2
    # A temporary file's name is longer than the marker's by `.new.` and a process id.
    assert all(0 < len(part) <= 255 - len(".new.4194304") and not part.startswith(".") for part in parts)


def test_the_script_as_a_whole_is_no_subsystem():
    assert path_of(b"web", b"") == "web/script"
    assert path_of(b"web", b"script") == "web/subsystem=script"


def found(*events: tuple[str, str, str | None]) -> Markers:
    markers = Markers()
    for event in events:
        markers.add(MarkerFound(*event))
    return markers


def test_a_marker_is_told_in_two_events_in_any_order():
    for events in [
        [("own", "web/script", None), ("own", "web/script", "%3D1")],
        [("own", "web/script", "%3D1"), ("own", "web/script", None)],
    ]:
        markers = found(*events)
        assert not markers.should_run("own", b"web", b"", b"1")
        assert markers.should_run("own", b"web", b"", b"2")
        assert not markers.should_run("own", b"web", b"", None)


@pytest.mark.parametrize(
    ("value", "asked", "runs"),
    [
        (None, None, False),
        (None, b"", True),
        (None, b"1", True),
        ("%3D", None, False),
        ("%3D", b"", False),
        ("%3D", b"1", True),
        ("%3D1", b"1", False),
        ("%3D1", b"", True),
    ],
)
def test_markers_answer_as_shouldrun_does(value: str | None, asked: bytes | None, runs: bool):  # noqa: FBT001
    markers = found(("own", "web/subsystem=a", value))
    assert markers.should_run("own", b"web", b"a", asked) == runs
    assert markers.should_run("root", b"web", b"a", asked)
    assert markers.should_run("own", b"web", b"b", asked)
    assert markers.should_run("own", b"other", b"a", asked)


def test_what_a_marker_says_is_told_with_its_names_taken_back():
    long = b"a" * 300
    markers = Markers()
    lines = {"value": "%3Da%20b", "time": "2025-01-01T00:00:00Z", "plan": "12", "script": "ab", "by": "me%40here"}
    for key, said in {**lines, "revision": "0af%2B", "other": "x"}.items():
        markers.add(MarkerFound("own", path_of(b"web/nginx", b"sub 1"), said, key))
    markers.add(MarkerFound("root", path_of(long, long), None))
    markers.add(MarkerFound("own", "web/.new.123", "%3D1"))
    markers.add(MarkerFound("own", "web/script.new.123", None))
    one, two = markers.decode()
    assert (one.script, one.subsystem, one.value, one.by, one.revision) == (
        "web/nginx", "sub 1", "a b", "me@here", "0af+"
    )  # fmt: skip
    assert (one.time, one.plan, one.section, one.digest, one.session) == ("2025-01-01T00:00:00Z", "12", "ab", "", "")
    assert (two.owner, two.script, two.value) == ("root", name_of(long), None)
    assert [each.script for each in markers.decode([long.decode()])][1] == long.decode()


@given(BYTES.filter(bool), BYTES)
def test_names_are_taken_back_as_they_were(script: bytes, subsystem: bytes):
    markers = found(("own", path_of(script, subsystem), None))
    names = [each.decode("utf-8", "surrogateescape") for each in (script, subsystem)]
    told = next(markers.decode(names))
    assert [told.script, told.subsystem] == names


@pytest.mark.parametrize(
    ("account", "root", "owner"),
    [
        ("root", True, "own"),
        ("sudo", True, "root"),
        ("user", True, None),
        ("sudo", False, "own"),
        ("user", False, "own"),
    ],
)
def test_whose_the_markers_of_a_script_are(account: str, root: bool, owner: str | None):  # noqa: FBT001
    assert Markers(account=account).owner(root=root) == owner
