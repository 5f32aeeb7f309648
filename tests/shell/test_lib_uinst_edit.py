"""uinst: lines and blocks, byte for byte."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

SAY = 'echo "$uinst_changed $uinst_any"'


@pytest.mark.parametrize(
    "case",
    [
        (b"a\nb", "uinst_line c", b"a\nb\nc\n"),
        (b"a\nb", "uinst_line b", b"a\nb"),
        (b"a\nb\na\n", "uinst_line a", b"a\nb\n"),
        (b"x=1\ny\nx=2", "uinst_line -r ^x= x=3", b"x=3\ny\n"),
        (b"x=1", "uinst_line -r ^x= x=3", b"x=3"),
        (b"y\nx=3\nx=1\n", "uinst_line -r ^x=1 x=3", b"y\nx=3\n"),
        (b"\n\n", "uinst_line ''", b"\n"),
        (b"", "uinst_line '\\n%s'", b"\\n%s\n"),
        (b"a\r\na\n", "uinst_line a", b"a\r\na\n"),
        (b"\xff \xc3\n\x01\x7f\\", "uinst_line z", b"\xff \xc3\n\x01\x7f\\\nz\n"),
        (b"a\nb\na", "uinst_noline a", b"b\n"),
        (b"a\n", "uinst_noline a", b""),
        (b"b", "uinst_noline a", b"b"),
    ],
)
def test_lines(bash, tmp_path: Path, options: str, case: tuple[bytes, str, bytes]):
    before, call, after = case
    (tmp_path / "f").write_bytes(before)
    for changed in (before != after, False):
        done = bash(f"{call} f; {SAY}", options=options)
        assert (tmp_path / "f").read_bytes() == after
        assert done.out.endswith("yes yes\n" if changed else "no no\n")


@pytest.mark.parametrize(
    "case",
    [
        (b"a", "uinst_block n f x", b"a\n# BEGIN n\nx\n# END n\n"),
        (b"# BEGIN n\nold\n\n# END n\nb", "uinst_block n f $'x\\ny\\n'", b"# BEGIN n\nx\ny\n# END n\nb"),
        (b"# BEGIN n\nold\n# END n", "uinst_block n f ''", b"# BEGIN n\n# END n"),
        (b"# BEGIN m\nm\n# END m\n", "uinst_block n f x", b"# BEGIN m\nm\n# END m\n# BEGIN n\nx\n# END n\n"),
        (b"", "uinst_block -c // n f x", b"// BEGIN n\nx\n// END n\n"),
        (b"", "uinst_block -c '<!--' n f x", b"<!-- BEGIN n -->\nx\n<!-- END n -->\n"),
        (b"", "uinst_block -c '/*' n f x", b"/* BEGIN n */\nx\n/* END n */\n"),
        (b"a\n", "uinst_block -f src 'a [*] n' f", b"a\n# BEGIN a [*] n\n\xff\n\nx\n# END a [*] n\n"),
        (b"a\n# BEGIN n\nold\n# END n\nb\n", "uinst_noblock n f", b"a\nb\n"),
        (b"a\n# BEGIN n\nold\n# END n", "uinst_noblock n f", b"a\n"),
        (b"a", "uinst_noblock n f", b"a"),
    ],
)
def test_blocks(bash, tmp_path: Path, options: str, case: tuple[bytes, str, bytes]):
    before, call, after = case
    (tmp_path / "f").write_bytes(before)
    (tmp_path / "src").write_bytes(b"\xff\n\nx")
    for changed in (before != after, False):
        done = bash(f"{call}; {SAY}", options=options)
        assert (tmp_path / "f").read_bytes() == after
        assert done.out.endswith("yes yes\n" if changed else "no no\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# BEGIN n\nx\n", "f: `# BEGIN n` without `# END n`"),
        ("x\n# END n\n", "f:2: `# END n` does not pair"),
        ("# BEGIN n\n# BEGIN n\n# END n\n", "f:2: `# BEGIN n` does not pair"),
        ("# BEGIN n\n# END n\n# BEGIN n\n# END n\n", "f:3: `# BEGIN n` does not pair"),
    ],
)
def test_markers_that_do_not_pair(bash, tmp_path: Path, options: str, text: str, message: str):
    (tmp_path / "f").write_text(text)
    for call in ("uinst_block n f x", "uinst_noblock n f"):
        done = bash(call, options=options)
        assert (done.status, done.out) == (1, "")
        assert message in done.err
    assert (tmp_path / "f").read_text() == text
