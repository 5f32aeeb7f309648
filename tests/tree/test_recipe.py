"""Recipes: one case a rule, and the laws that hold for any bytes (T9, T10)."""

from __future__ import annotations

import os
import shlex

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runsdeploy.errors import Position
from runsdeploy.tree.recipe import Operation, Word, parse_argument, parse_call, parse_operations, parse_recipe

FILE = "hosts/medusa/default"


def parsed(data: bytes) -> list[tuple[str, list[tuple[str, str, list[bytes]]]]]:
    """Parse what must be right."""
    entries, problems = parse_recipe(data, FILE)
    assert problems == []
    return [(each.name, [(op.name, op.kind, list(op.values)) for op in each.operations]) for each in entries]


def wrong(data: bytes) -> list[tuple[int, int, str]]:
    """Return line, column and message of every problem."""
    problems = parse_recipe(data, FILE)[1]
    assert all(problem.position and problem.position.file == FILE for problem in problems)
    return [(each.position.line, each.position.column, each.message) for each in problems if each.position]


WORDS = [
    ("plain", b"a=b", b"b"),
    ("an empty value", b"a=", b""),
    ("an empty quoted value", b"a=''", b""),
    ("single quotes keep everything", rb"""a='$x `y` \n "q" # c'""", rb'$x `y` \n "q" # c'),
    ("double quotes keep most", rb'''a="it's \n ${x}"''', rb"it's \n ${x}"),
    ("double quotes take a backslash before five characters", rb'a="\" \\ \$ \` \'."', rb"""" \ $ ` \'."""),
    ("a backslash takes the next character", rb"a=\a\ \'\"\\\$\#", b"a '\"\\$#"),
    ("quoted parts join", b"""a='b'"c"d\\ e""", b"bcd e"),
    ("the name may be quoted too", b"'a=b c'", b"b c"),
    ("nothing is expanded", b"a=$HOME/*~{b,c}`id`$(id)", b"$HOME/*~{b,c}`id`$(id)"),
    ("a hash inside a word is no comment", b"a=b#c", b"b#c"),
    ("a quoted newline", b"a='b\nc'", b"b\nc"),
    ("a newline in double quotes", b'a="b\n c\n"', b"b\n c\n"),
    ("a continued line", b"a=b\\\nc", b"bc"),
    ("a continued line in double quotes", b'a="b\\\nc"', b"bc"),
    ("no continuation in single quotes", b"a='b\\\nc'", b"b\\\nc"),
    ("equal signs", b"a==b=c", b"=b=c"),
    ("a leading dash", b"a=-n", b"-n"),
    ("UTF-8", "a=été".encode(), "été".encode()),
    ("bytes that are not UTF-8", b"a=\xe9\xff\x80", b"\xe9\xff\x80"),
    ("control characters", b"a='\x01\x1b\x7f\t\x0b\x0c'", b"\x01\x1b\x7f\t\x0b\x0c"),
    ("an unquoted form feed", b"a=b\x0cc", b"b\x0cc"),
    ("a quoted carriage return in the middle", b"a='b\r\nc'", b"b\r\nc"),
    ("a quoted carriage return at the end", b"a='b\r'", b"b\r"),
    ("a quoted carriage return before another word", b"a='b\r' c=d", b"b\r"),
    ("a zero-width space is no blank", "a=b\u200b\u00a0c".encode(), "b\u200b\u00a0c".encode()),
]


@pytest.mark.parametrize(("text", "value"), [case[1:] for case in WORDS], ids=[case[0] for case in WORDS])
def test_values_are_what_a_posix_shell_makes_of_the_quotes(text: bytes, value: bytes):
    assert parsed(b"script " + text + b"\n")[0][1][0] == ("a", "=", [value])
    assert parsed(b"script\n  " + text)[0][1][0] == ("a", "=", [value])


LINES = [
    ("nothing", b"", []),
    ("empty lines", b"\n\n  \n\t\n", []),
    ("comments", b"# a\n  # b\nscript # c d=e\n#", [("script", [])]),
    ("no newline at the end", b"script", [("script", [])]),
    ("scripts in order, the same one twice", b"b\na x=1\nb\n", [("b", []), ("a", [("x", "=", [b"1"])]), ("b", [])]),
    ("a script in a subdirectory", b"web/nginx\n", [("web/nginx", [])]),
    ("a script with a blank in its name", b"'my script'\n", [("my script", [])]),
    ("a script with bytes that are not UTF-8", b"s\xe9\n", [("s\udce9", [])]),
    ("appending", b"s a+=b\n", [("s", [("a", "+=", [b"b"])])]),
    ("removing", b"s a-=b\n", [("s", [("a", "-=", [b"b"])])]),
    ("a bare name", b"s a\n", [("s", [("a", "()", [])])]),
    ("several operations on the first line", b"s a b=c\n", [("s", [("a", "()", []), ("b", "=", [b"c"])])]),
    ("an array on an indented line", b"s\n  a v0 'v 1'\n", [("s", [("a", "()", [b"v0", b"v 1"])])]),
    ("an array of none", b"s\n\ta\n", [("s", [("a", "()", [])])]),
    ("values of an array are no operations", b"s\n a b=c -x ''\n", [("s", [("a", "()", [b"b=c", b"-x", b""])])]),
    (
        "operations on an indented line",
        b"s\n  a=b c d+=e\n",
        [("s", [("a", "=", [b"b"]), ("c", "()", []), ("d", "+=", [b"e"])])],
    ),
    (
        "each indented line is one call, in order",
        b"s x=1\n  x=2\n\n  # c\n  a v\n",
        [("s", [("x", "=", [b"1"]), ("x", "=", [b"2"]), ("a", "()", [b"v"])])],
    ),
    ("a continued line is no indented line", b"s \\\n  a \\\n  b\n", [("s", [("a", "()", []), ("b", "()", [])])]),
    ("a continued indented line", b"s\n  a \\\nv0 v1\n", [("s", [("a", "()", [b"v0", b"v1"])])]),
    ("an include", b"@base/services\ns\n", [("@base/services", []), ("s", [])]),
]  # fmt: skip


@pytest.mark.parametrize(("data", "entries"), [case[1:] for case in LINES], ids=[c[0] for c in LINES])
def test_lines_become_entries(data: bytes, entries: list[object]):
    assert parsed(data) == entries


def test_the_example_of_the_specification_means_what_it_says():
    data = b"""# comment
script name=value arr0+=value0 arr1-=value1
    arr2 value21 value22
@services
"""
    operations = [
        ("name", "=", [b"value"]),
        ("arr0", "+=", [b"value0"]),
        ("arr1", "-=", [b"value1"]),
        ("arr2", "()", [b"value21", b"value22"]),
    ]
    assert parsed(data) == [("script", operations), ("@services", [])]


def test_entries_operations_and_words_know_where_they_stand():
    entries, _ = parse_recipe(b"# c\na x=1 'y\nz'=2\n\n  n v\nb \\\n  w\n", FILE)
    assert [entry.position for entry in entries] == [Position(FILE, 2, 1), Position(FILE, 6, 1)]
    entries, _ = parse_recipe(b"a x=1 y='\n' z\n\n  n v\nb \\\n  w\n", FILE)
    assert [op.position for op in entries[0].operations] == [
        Position(FILE, 1, 3),
        Position(FILE, 1, 7),
        Position(FILE, 2, 3),
        Position(FILE, 4, 3),
    ]
    assert entries[1].operations[0].position == Position(FILE, 6, 3)


def test_columns_count_characters_not_bytes():
    assert [(line, column) for line, column, _ in wrong("s a='éé' 1\n".encode())] == [(1, 10)]


MISTAKES = [
    ("an operation that is none", b"s 1a=b\n", 1, 3, "bad operation `1a=b`"),
    ("a name with a dash", b"s\n  a-b=c\n", 2, 3, "bad operation `a-b=c`"),
    ("a name that is not ASCII", "s é=1\n".encode(), 1, 3, "bad operation"),
    ("an empty word", b"s ''\n", 1, 3, "bad operation ``"),
    ("an option", b"s -r\n", 1, 3, "bad operation `-r`"),
    ("a value without a name", b"s =v\n", 1, 3, "bad operation `=v`"),
    ("a name with a newline behind it", b"s 'a\n'\n", 1, 3, "bad operation"),
    ("a word that is no operation after one that is", b"s\n  a=b c,d\n", 2, 7, "bad operation `c,d`"),
    ("an indented line first", b"\n  a=b\ns\n", 2, 3, "indented line without a script"),
    ("an include with operations", b"@a b=c\n", 1, 4, "takes no operations"),
    ("an include with an indented line", b"@a\n  b v\n", 2, 3, "takes no operations"),
    ("an include of nothing", b"@\n", 1, 1, "empty name"),
    ("an absolute name", b"/etc/passwd\n", 1, 1, "absolute"),
    ("an absolute include", b"@/etc/passwd\n", 1, 1, "absolute"),
    ("a name that leads up", b"a/../../b\n", 1, 1, "`..`"),
    ("an include that leads up", b"@../b\n", 1, 1, "`..`"),
    ("a name with a dot component", b"./b\n", 1, 1, "`..`"),
    ("a name with an empty component", b"a//b\n", 1, 1, "empty"),
    ("an empty name", b"''\n", 1, 1, "empty name"),
    ("a name with a newline", b"'a\nb'\n", 1, 1, "newline"),
    ("a single quote without its end", b"s a='b\n", 1, 5, "quote ' without its end"),
    ("a double quote without its end", b's "a=b\n', 1, 3, 'quote " without its end'),
    ("a backslash at the end", b"s a\\", 1, 4, "backslash at the end"),
    ("a carriage return", b"s a=b\r\nt\n", 1, 3, "carriage return"),
    ("a carriage return behind a name", b"s\r\n", 1, 1, "carriage return"),
    ("a NUL", b"s a=b\0c\n", 1, 3, "NUL"),
    ("a quoted NUL", b"s a='b\0c'\n", 1, 3, "NUL"),
    ("a reserved name", b"s PATH=/bin\n", 1, 3, "`PATH` is reserved"),
    ("a reserved array", b"s\n  IFS a b\n", 2, 3, "`IFS` is reserved"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("data", "line", "column", "message"), [case[1:] for case in MISTAKES], ids=[case[0] for case in MISTAKES]
)
def test_t10_a_mistake_is_told_once_with_line_column_and_cause(data: bytes, line: int, column: int, message: str):
    found = wrong(data)
    assert [(each[0], each[1]) for each in found] == [(line, column)]
    assert message in found[0][2]


@pytest.mark.parametrize(
    "name",
    [
        *("PATH", "IFS", "BASH", "BASH_ENV", "BASHOPTS", "BASH_XTRACEFD", "RUNS", "RUNS_HOST", "RUNS_anything", "ENV"),
        *("SHELLOPTS", "LD_PRELOAD", "LC_ALL", "PS4", "PWD", "OLDPWD", "EUID", "UID", "PPID", "RANDOM", "SECONDS"),
        *("LINENO", "OPTIND", "OPTARG", "CDPATH", "GLOBIGNORE", "POSIXLY_CORRECT", "TMOUT", "_", "FUNCNAME", "GROUPS"),
        *("DIRSTACK", "PIPESTATUS", "HISTFILE", "COMP_WORDS", "EPOCHSECONDS", "SHLVL", "MAPFILE", "REPLY"),
    ],
)
@pytest.mark.parametrize("operation", ["=v", "+=v", "-=v", ""])
def test_t10_a_name_that_bash_reserves_is_refused(name: str, operation: str):
    assert wrong(f"s {name}{operation}\n".encode()) == [
        (1, 3, f"variable `{name}` is reserved: a script needs it as bash sets it")
    ]


@pytest.mark.parametrize("name", ["FUNCNEST"])
def test_t10_a_name_that_would_break_the_run_is_refused(name: str):
    """SPEC 2: with FUNCNEST=1 no function of CONF or SCRIPT can call another."""
    assert [each[:2] for each in wrong(f"s {name}=1\n".encode())] == [(1, 3)]


@pytest.mark.parametrize("name", ["path", "a", "_a", "A1", "ENVIRONMENT", "IFS_", "LCX", "PS5", "USER", "runs_x", "__"])
def test_a_name_that_only_looks_reserved_is_not(name: str):
    assert parsed(f"s {name}=v\n".encode()) == [("s", [(name, "=", [b"v"])])]


def test_a_quote_without_its_end_does_not_hide_the_mistakes_below_it():
    found = wrong(b"a x='1\nb 2y\n/c\nd \"e\nf PATH=\n")
    assert [each[:2] for each in found] == [(1, 5), (2, 3), (3, 1), (4, 3), (5, 3)]


def test_a_script_line_with_a_mistake_does_not_make_its_indented_lines_wrong():
    """One mistake is one problem: what stands below belongs to the script that was meant."""
    assert [each[:2] for each in wrong(b"web x='80\n  names a b\n")] == [(1, 7)]


def test_a_script_line_with_a_mistake_does_not_give_its_indented_lines_to_the_script_above():
    entries, problems = parse_recipe(b"first\nweb x=80\0\n  names a b\n", FILE)
    assert len(problems) == 1
    assert entries[0].operations == ()


def test_t9_all_mistakes_of_a_recipe_are_told_in_one_go():
    found = wrong(b"  early=1\n@a b\n/abs 1 2=3\nok PATH= IFS=\n  -x\n")
    assert sorted(each[:2] for each in found) == [(1, 3), (2, 4), (3, 1), (3, 6), (3, 8), (4, 4), (4, 10), (5, 3)]


def test_a_deep_or_long_name_is_no_problem_of_the_recipe():
    assert parsed(b"a/" * 500 + b"a\n")[0][0] == "a/" * 500 + "a"


def test_words_of_the_command_line_are_operations_too():
    place = Position("<command line>")
    operations, problems = parse_operations([Word("a=b", place), Word("x y", place), Word("c+=", place)])
    assert operations == [Operation("a", "=", (b"b",), place), Operation("c", "+=", (b"",), place)]
    assert [str(problem)[:40] for problem in problems] == ["<command line>: bad operation `x y`, exp"]


def test_a_call_with_a_bare_name_first_is_an_array_of_the_rest():
    place = Position(FILE, 1, 1)
    assert parse_call([Word("a", place), Word("b=c", place)])[0] == [Operation("a", "()", (b"b=c",), place)]
    assert parse_call([Word("PATH", place), Word("b", place)])[0] == []


# --- laws --------------------------------------------------------------------------------------

PIECES = st.sampled_from(
    [b"'", b'"', b"\\", b"\n", b"\r\n", b" ", b"\t", b"#", b"a", b"=", b"+=", b"-=", b"@", b"/", b"..", b"\0", b"\xff",
     b"PATH", b"a=b", b"\n  ", "é".encode(), b"\\\n", b"''"]
)  # fmt: skip
TEXTS = st.binary(max_size=80) | st.lists(PIECES, max_size=30).map(b"".join)


SAMPLE = b"""# all of the language
web/nginx name='a b' list+=c list-=d port=80   # words
    list one 'two
lines' "three \\" four" \\
      five
    empty
@base/services
plain
"""


@settings(max_examples=20_000 if "RUNSDEPLOY_TEST_FULL" in os.environ else 2000)
@given(
    TEXTS | st.tuples(st.integers(0, len(SAMPLE)), TEXTS).map(lambda cut: SAMPLE[: cut[0]] + cut[1] + SAMPLE[cut[0] :])
)
def test_t9_any_bytes_parse_and_every_problem_stands_in_the_file(data: bytes):
    entries, problems = parse_recipe(data, FILE)
    lines = data.decode("utf-8", "surrogateescape").split("\n")
    for position in [each.position for each in [*problems, *entries, *(op for e in entries for op in e.operations)]]:
        assert position is not None
        assert position.file == FILE
        assert 1 <= position.line <= len(lines)
        assert 1 <= position.column <= len(lines[position.line - 1]) + 1
    for entry in entries:
        for op in entry.operations:
            assert op.kind in ("=", "+=", "-=", "()")
            assert op.kind == "()" or len(op.values) == 1
            assert not any(b"\0" in value for value in op.values)


def test_t9_a_recipe_cut_anywhere_has_its_problems_in_its_last_words():
    whole = [entry.name for entry in parse_recipe(SAMPLE, FILE)[0]]
    for end in range(len(SAMPLE)):
        entries, problems = parse_recipe(SAMPLE[:end], FILE)
        assert [entry.name for entry in entries][:-1] == whole[: len(entries)][:-1]
        assert len(problems) <= 1


@given(TEXTS, TEXTS)
def test_a_recipe_is_the_sum_of_its_right_parts(one: bytes, two: bytes):
    """Parsing has no memory but the script above: two right files in a row are right."""
    first, second = parse_recipe(one, FILE), parse_recipe(two, FILE)
    # What such a byte at the end means depends on what follows.
    if not (first[1] or second[1] or one.endswith((b"\\", b"\r"))):
        both, problems = parse_recipe(one + b"\n" + two, FILE)
        assert problems == []
        assert [each.name for each in both] == [each.name for each in [*first[0], *second[0]]]


VALUES = st.binary(max_size=40).map(lambda data: data.replace(b"\0", b""))
ONE_LINE = VALUES.map(lambda data: data.replace(b"\n", b""))
NAMES = st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True).filter(lambda name: name != "_")


def quoted(data: bytes) -> bytes:
    return shlex.quote(data.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")


@given(st.lists(st.tuples(NAMES, st.sampled_from(["=", "+=", "-="]), VALUES), max_size=5))
def test_r31_quoted_values_of_any_bytes_come_back_exactly(operations: list[tuple[str, str, bytes]]):
    """The first line, newlines and carriage returns included."""
    line = b" ".join([b"s", *(name.encode() + kind.encode() + quoted(value) for name, kind, value in operations)])
    assert parsed(line + b"\n") == [("s", [(name, kind, [value]) for name, kind, value in operations])]


@given(NAMES, st.lists(VALUES, max_size=5))
def test_r31_quoted_arrays_of_any_bytes_come_back_exactly(name: str, values: list[bytes]):
    """An indented line."""
    line = b" ".join([name.encode(), *map(quoted, values)])
    assert parsed(b"s\n\t" + line + b"\n") == [("s", [(name, "()", values)])]


@given(NAMES, st.lists(ONE_LINE, min_size=1, max_size=5))
def test_r31_arrays_continued_over_lines_come_back_exactly(name: str, values: list[bytes]):
    """One value a line."""
    line = b" \\\n      ".join([name.encode(), *map(quoted, values)])
    assert parsed(b"s\n  " + line) == [("s", [(name, "()", values)])]


@given(st.lists(st.tuples(NAMES, VALUES), min_size=1, max_size=4))
def test_r31_double_quoted_values_come_back_exactly(pairs: list[tuple[str, bytes]]):
    def double(data: bytes) -> bytes:
        for char in b'\\"$`':
            data = data.replace(bytes([char]), b"\\" + bytes([char]))
        return b'"' + data + b'"'

    lines = b"".join(b"  " + name.encode() + b"=" + double(value) + b"\n" for name, value in pairs)
    assert parsed(b"s\n" + lines) == [("s", [(name, "=", [value]) for name, value in pairs])]


# --- `--set`

ARGUMENTS = [
    ("args --dry-run x", "()", [b"--dry-run", b"x"]),
    ("args 'a b' \"c d\" e\\ f", "()", [b"a b", b"c d", b"e f"]),
    ("args a#b #c", "()", [b"a#b", b"#c"]),
    ("args x=1 y+=2", "()", [b"x=1", b"y+=2"]),
    ("args 'a\nb'", "()", [b"a\nb"]),
    ("args\t-n", "()", [b"-n"]),
    ("args ", "()", []),
    ("args", "()", []),
    ("args=a 'b' #c", "=", [b"a 'b' #c"]),
    ("args+= --dry-run", "+=", [b" --dry-run"]),
    ("args-=a b", "-=", [b"a b"]),
    ("args=\n", "=", [b"\n"]),
    ("args \udcff", "()", [b"\xff"]),
]


@pytest.mark.parametrize(("text", "kind", "values"), ARGUMENTS, ids=[repr(text) for text, *_ in ARGUMENTS])
def test_an_argument_sets_whatever_the_line_of_a_recipe_can(text: str, kind: str, values: list[bytes]):
    """D20: in `name=value` the shell has removed the quotes already, and the value is all of the rest."""
    where = Position("<command line>")
    assert parse_argument(text, where) == ([Operation("args", kind, tuple(values), where)], [])


@given(NAMES, st.lists(VALUES, min_size=1, max_size=4))
def test_r31_an_array_of_an_argument_is_that_of_an_indented_line(name: str, values: list[bytes]):
    text = b" ".join([name.encode(), *map(quoted, values)])
    found, problems = parse_argument(os.fsdecode(text), Position("<command line>"))
    assert problems == []
    assert parsed(b"s\n  " + text) == [("s", [(each.name, each.kind, list(each.values)) for each in found])]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("args a\nb", "`args a\nb` has more than one line, expected the words of one"),
        ("args 'a", "quote ' without its end"),
        ("args a\0", "NUL byte, which no bash variable can hold"),
        ("PATH a", "variable `PATH` is reserved: a script needs it as bash sets it"),
        ("port = 80", "bad operation `port = 80`: blank before `=`, expected `name=value`"),
        ("port += 80", "bad operation `port += 80`: blank before `=`, expected `name=value`"),
        ("1a b", "bad operation `1a b`, expected `name=value`, `name+=value`, `name-=value` or `name`"),
    ],
)
def test_an_argument_that_is_no_operation_is_a_problem(text: str, message: str):
    where = Position("<command line>")
    found, problems = parse_argument(text, where)
    assert (found, [(each.message, each.position) for each in problems]) == ([], [(message, where)])
