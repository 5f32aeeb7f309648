"""Encodings that editors of other systems leave: refused where a text is read, with `dos2unix` (D17)."""

from __future__ import annotations

import pytest

from runsdeploy.tree.encoding import bash_encoding_problem, encoding_problem, is_misencoded_script
from tests.trees import Operator, plant, script

DOS = {
    "a value": (b"var a=1\r\n", 1),
    "a value of $'…'": (b"var b=2\na=$'1'\r\n", 2),
    "the last line without a newline": (b"echo a\r", 1),
    "behind a quote": (b"var a='1'\r\n", 1),
    "an empty line": (b"echo a\n\r\necho b\n", 2),
    "behind a quoted one": (b"x='a\r\nb'\necho\r\n", 3),
    "the delimiter of a here-document": (b"cat <<END\na\r\nEND\r\n", 3),
    "behind a here-document": (b"cat <<-'END'\na\r\n\tEND\necho\r\n", 4),
    "a condition": (b"if true\r\nthen\r\n:\r\nfi\r\n", 1),
}
MEANT = {
    "in quotes": b"x='a\r\nb'\n",
    "in double quotes": b'x="a\r\nb \\" \r\n"\n',
    "escaped": b"x=a\\\r\n",
    "in a here-document": b"cat <<END\nGET / HTTP/1.0\r\n\r\nEND\n",
    "in a comment": b"# a\r\necho\n",
    "inside a line": b"IFS=\r read x\n",
    "spelled": b"a=$'1\\r'\n",
    "none": b"echo a\n",
    "a NUL": b"echo \0\0\0\n",
}


@pytest.mark.parametrize(("text", "line"), DOS.values(), ids=DOS)
def test_a_carriage_return_that_ends_a_line_is_found(text, line):
    """D17."""
    found = bash_encoding_problem(text, "scripts/it", 10)
    assert found is not None
    assert (found.position.line, found.hint) == (10 + line - 1, "`dos2unix scripts/it`")


@pytest.mark.parametrize("text", MEANT.values(), ids=MEANT)
def test_a_carriage_return_that_is_meant_is_none(text):
    """D17."""
    assert bash_encoding_problem(text, "scripts/it") is None


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf_16_is_known_with_and_without_its_mark(encoding):
    """D17."""
    data = 'desc "x"\nscript:\ntrue\n'.encode(encoding)
    assert is_misencoded_script(data)
    assert encoding_problem(data, "it").message == "UTF-16 text, expected UTF-8"


def test_old_mac_line_ends_are_known():
    """D17."""
    data = b'desc "x"\rscript:\rtrue\r'
    assert is_misencoded_script(data)
    assert encoding_problem(data, "it").hint == "`mac2unix it`"


GOOD = {
    "runs.conf": "var admins a b\n",
    "hosts/medusa/sysinfos.conf": "sysname=(linux)\n",
    "hosts/medusa/runs.conf": "var own=1\n",
    "hosts/medusa/default": "it port=80\n",
    "scripts/it": script('var port="${port:-1}"', 'urequire mine\necho "$port" "${admins[*]}" "$own"'),
    "lib/mine": "mine() { :; }\n",
}
FOREIGN = {
    "DOS": lambda text: text.replace("\n", "\r\n").encode(),
    "old Mac": lambda text: text.replace("\n", "\r").encode(),
    "byte order mark": lambda text: b"\xef\xbb\xbf" + text.encode(),
    "UTF-16": lambda text: text.replace("\n", "\r\n").encode("utf-16"),
}


@pytest.mark.parametrize("file", GOOD)
@pytest.mark.parametrize("foreign", FOREIGN.values(), ids=FOREIGN)
def test_check_and_plan_name_the_file_and_the_command_for_every_kind_of_file(file, foreign, tmp_path):
    """D17: one error, at FILE:LINE, before anything runs."""
    operator = Operator(tmp_path / "operator")
    files = {name: text.encode() for name, text in GOOD.items()} | {file: foreign(GOOD[file])}
    tree = plant(tmp_path / "tree", files)
    for words in (["check"], ["check", "--static"], ["plan", "--host", "medusa"]):
        done = operator.run(*words, "--format", "json", cwd=tree)
        assert done.status == 2, words
        found = done.document.get("findings") or done.document.get("errors")
        told = [each for each in found if each["file"] == file and each["line"] and "2unix" in each["hint"]]
        assert told, (words, found)
        assert len([each for each in found if each["file"] == file]) == 1, (words, found)
