"""A script split at its line `script:` (SPEC 1, 5)."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runsdeploy.errors import Problem
from runsdeploy.tree.script import CHUNK, MOST_HEAD, Script, is_script, read_head, read_script
from runsdeploy.tree.trees import Located


def read(tmp_path: Path, data: bytes, name: str = "web") -> Script | Problem:
    path = tmp_path / name.replace("/", "-")
    path.write_bytes(data)
    return read_script(name, Located(0, f"scripts/{name}", path))


@pytest.mark.parametrize(
    ("data", "conf", "body"),
    [
        (b"var a=1\nscript:\necho\n", b"var a=1\n", b"\n\necho\n"),
        (b"script:\necho", b"", b"\necho"),
        (b"script:", b"", b"\n"),
        (b"\n\nscript:\n", b"\n\n", b"\n\n\n"),
        (b"script:\nscript:\n", b"", b"\nscript:\n"),
        (
            b" script:\nscript: \nxscript:\nscript:x\nscript:\n",
            b" script:\nscript: \nxscript:\nscript:x\n",
            b"\n\n\n\n\n",
        ),
        (b"# \xe9\r\nscript:\necho \xff\n", b"# \xe9\r\n", b"\n\necho \xff\n"),
    ],
)
def test_the_first_line_that_is_exactly_the_separator_splits(tmp_path: Path, data: bytes, conf: bytes, body: bytes):
    script = read(tmp_path, data)
    assert isinstance(script, Script)
    assert (script.conf, script.body) == (conf, body)
    assert is_script(data)


@settings(suppress_health_check=list(HealthCheck), deadline=None)
@given(st.lists(st.sampled_from([b"echo", b"script:", b"", b"x y"]), max_size=8))
def test_lines_of_the_section_have_the_numbers_that_an_editor_shows(tmp_path: Path, lines: list[bytes]):
    data = b"\n".join(lines)
    script = read(tmp_path, data)
    assert isinstance(script, Script) == (b"script:" in lines)
    if isinstance(script, Script):
        at = script.first_line - 1
        assert lines[at - 1] == b"script:"
        assert script.body.split(b"\n")[at:] == (lines[at:] or [b""])
        assert not any(script.body.split(b"\n")[:at])


@pytest.mark.parametrize(
    ("data", "line", "message"),
    [
        (b"echo\n", 0, "`web` has no line `script:`, so it is not a script"),
        (b"", 0, "`web` has no line `script:`, so it is not a script"),
        (b"var a=1\r\nscript:\r\necho\r\n", 2, "script `web` has DOS line ends, expected unix ones"),
        (b"var a=1\nscript:\n\necho \0\n", 4, "script `web` holds a NUL byte, expected bash"),
    ],
)
def test_what_is_no_script_is_a_problem_with_its_line(tmp_path: Path, data: bytes, line: int, message: str):
    found = read(tmp_path, data)
    assert isinstance(found, Problem)
    assert found.position
    assert (found.position.line, found.message) == (line, message)


def test_a_script_that_cannot_be_read_is_a_problem(tmp_path: Path):
    found = read_script("web", Located(0, "scripts/web", tmp_path / "nowhere"))
    assert isinstance(found, Problem)
    assert found.message == "cannot read script `web`: no such file or directory"


def test_the_folder_of_a_script_is_its_own_directory(tmp_path: Path):
    script = read(tmp_path, b"script:\n", "web/nginx")
    assert isinstance(script, Script)
    assert script.folder == "scripts/web"


@pytest.mark.parametrize(
    "text",
    [
        "#!/bin/bash\nfoo\n",
        "#!/usr/bin/env bash\n",
        "echo hello\n",
        "apt-get update\n",
        "set -e\nfoo\n",
        "foo --bar | baz $(qux)\n",
        "if [ -e x ]; then\nfoo\nfi\n",
        "sudo foo\n",
        "name=value\n",
        'desc "x"\nfoo\n',
    ],
)
def test_a_file_of_shell_commands_is_told_where_its_separator_belongs(tmp_path, text):
    """O16."""
    found = read(tmp_path, text.encode(), "hello")
    assert isinstance(found, Problem)
    assert found.hint == "put a line `script:` above the commands"


@pytest.mark.parametrize("text", ["it\n", "it port=80\n    names a b\n@more\n", "# what it needs\nweb/it 'name=a b'\n"])
def test_a_recipe_for_a_script_is_still_told_as_one(tmp_path, text):
    """O16."""
    found = read(tmp_path, text.encode(), "hello")
    assert isinstance(found, Problem)
    assert found.hint == "if it is a recipe, write `@hello`"


@pytest.mark.parametrize("before", [0, 1, CHUNK - 8, CHUNK - 7, CHUNK - 4, CHUNK, MOST_HEAD - 8])
def test_the_separator_is_found_wherever_the_chunks_end(tmp_path: Path, before: int):
    """D21: a file is read in chunks, and no further than it can be a script."""
    for text, found in ((b"script:\n", True), (b"script:x\n", False), (b"script:", True)):
        path = tmp_path / "web"
        path.write_bytes(b"#" * max(before - 1, 0) + b"\n" * min(before, 1) + text)
        assert is_script(read_head(path)) == found
        assert isinstance(read_script("web", Located(0, "scripts/web", path)), Script) == found


def test_a_payload_is_read_to_its_first_nul_only(tmp_path: Path):
    """D21: a separator far behind is that of a file in an archive."""
    path = tmp_path / "payload"
    path.write_bytes(b"\0" + b"x" * 2 * CHUNK + b"\nscript:\n")
    assert len(read_head(path)) == CHUNK
