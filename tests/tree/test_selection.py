"""Which hosts a list stands for: names, patterns, groups, and what is taken away (SPEC 1, 7)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runsdeploy.errors import InputError
from runsdeploy.tree.selection import Choice, choices, memberships, select
from runsdeploy.tree.trees import Trees

HOSTS = ("univ.run/medusa", "univ.run/stheno", "hosts/gorgo")
ALL = ["gorgo", "medusa.univ.run", "stheno.univ.run"]


@pytest.fixture
def trees(tmp_path: Path) -> Trees:
    for host in HOSTS:
        (tmp_path / "tree" / host).mkdir(parents=True)
    (tmp_path / "tree/groups").mkdir()
    return Trees((tmp_path / "tree",))


def write(trees: Trees, groups: Mapping[str, str | bytes]) -> None:
    for name, text in groups.items():
        (trees.roots[0] / "groups" / name).write_bytes(text if isinstance(text, bytes) else text.encode())


def names(trees: Trees, *given: str) -> list[str]:
    return [host.name for host in select(trees, choices(given))]


def problems(trees: Trees, *given: str) -> list[str]:
    with pytest.raises(InputError) as caught:
        select(trees, choices(given))
    return [str(problem).replace(f"{trees.roots[0]}/", "") for problem in caught.value.problems]


# --- names and patterns


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("*.univ.run", ["medusa.univ.run", "stheno.univ.run"]),
        ("*", ALL),
        ("[ms]*", ["medusa.univ.run", "stheno.univ.run"]),
        ("gorg?", ["gorgo"]),
        ("medusa.univ.run", ["medusa.univ.run"]),
        ("unknown.example", ["unknown.example"]),
        ("fe80::1", ["fe80::1"]),
    ],
)
def test_a_word_selects_a_host_or_those_that_match(trees: Trees, wanted: str, expected: list[str]):
    assert [host.name for host in select(trees, [Choice(wanted)])] == expected
    assert [host.address for host in select(trees, [Choice(f"adm@{wanted}")])] == [f"adm@{name}" for name in expected]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("all", "`all` names no host; every host that has a directory: `'*'`, in quotes"),
        ("ALL", "`ALL` names no host; every host that has a directory: `'*'`, in quotes"),
        ("any", "`any` names no host; every host that has a directory: `'*'`, in quotes"),
        ("everything", "`everything` names no host; every host that has a directory: `'*'`, in quotes"),
        ("root@all", "`root@all` names no host; every host that has a directory: `'root@*'`, in quotes"),
        ("@web", "groups/web:1: `all` names no host; every host that has a directory: `*`"),
    ],
)
def test_a_word_that_means_all_elsewhere_is_answered_with_the_pattern(trees: Trees, wanted: str, message: str):
    """O8."""
    write(trees, {"web": "all\n"})
    assert problems(trees, wanted) == [message]


def test_all_may_be_the_name_of_a_host_or_of_a_group(trees: Trees):
    write(trees, {"any": "gorgo\n"})
    (trees.roots[0] / "hosts/all").mkdir()
    assert names(trees, "all") == ["all"]
    assert names(trees, "any") == ["any"]
    with pytest.raises(InputError, match="did you mean `@any`"):
        select(trees, choices(["any"]), known=True)


@pytest.mark.parametrize(
    "wanted",
    ["", "*.nowhere", "?", "-oProxyCommand=x", "a b", "a/b", "../a", "a..b", ".a", "a.", "a;b", "$(id)", "a\n", "x@",
     "-l@a", "!", "!*", "!medusa.univ.run", "!!gorgo", "!-x", "!@web"],
)  # fmt: skip
def test_r42_what_is_no_host_or_matches_none_is_an_error_never_all(trees: Trees, wanted: str):
    with pytest.raises(InputError):
        select(trees, [Choice(wanted)])


def test_words_are_separated_by_commas_and_colons():
    assert [choice.text for choice in choices(["a,b:c", ",", "!d"])] == ["a", "b", "c", "!d"]


@pytest.mark.parametrize("wanted", ["gorgo,medusa,adm@gorgo", "adm@gorgo,medusa,gorgo", "adm@gorgo,medusa,adm@g*"])
def test_a_host_named_twice_is_one_with_the_user_that_was_named(trees: Trees, wanted: str):
    assert [host.address for host in select(trees, choices([wanted]))] == ["adm@gorgo", "medusa"]


def test_a_host_named_with_two_users_is_an_error(trees: Trees):
    write(trees, {"web": "root@gorgo\n"})
    said = ["`gorgo` is named with two users, `root` and `adm`"]
    assert problems(trees, "root@gorgo,gorgo,adm@gorgo") == problems(trees, "@web", "adm@gorgo") == said


# --- groups


def test_a_group_is_never_taken_for_a_host_of_its_name(trees: Trees):
    """`@group` of a group that there is not is an error; it must not connect to a host `web`."""
    assert problems(trees, "@web") == ["unknown group `@web`"]


def test_a_group_is_its_hosts_patterns_and_other_groups(trees: Trees):
    write(trees, {"web": "# all\r\n*.univ.run  # both\r\n\n@other\n", "other": "adm@gorgo"})
    assert names(trees, "@web") == ["medusa.univ.run", "stheno.univ.run", "gorgo"]
    assert [host.address for host in select(trees, choices(["@other"]))] == ["adm@gorgo"]


def test_the_first_tree_with_a_group_wins(trees: Trees, tmp_path: Path):
    second = tmp_path / "second"
    (second / "groups").mkdir(parents=True)
    write(Trees((second,)), {"web": "wrong\n", "db": "right\n"})
    write(trees, {"web": "gorgo\n"})
    both = Trees((*trees.roots, second))
    assert names(both, "@web,@db") == ["gorgo", "right"]


def test_a_mistake_in_a_group_is_told_with_its_line(trees: Trees):
    write(trees, {"web": "gorgo\n\n@db\n*.nowhere\n", "db": "# none\na b\n@dbb\n@web\n!adm@gorgo\n"})
    assert problems(trees, "@web,@wbe") == [
        "groups/db:2: `a b` is not a host name",
        "groups/db:3: unknown group `@dbb`; did you mean `@db`?",
        "groups/db:4: cycle of groups: @web → @db → @web",
        "groups/db:5: `!adm@gorgo` names a user, expected a host",
        "groups/web:4: pattern `*.nowhere` matches no host; see `runsdeploy hosts`",
        "unknown group `@wbe`; did you mean `@web`?",
    ]


def test_a_group_that_names_no_host_is_an_error(trees: Trees):
    write(trees, {"empty": "# nobody\n"})
    assert problems(trees, "@empty") == ["groups/empty: group `@empty` names no host"]


def test_bytes_that_are_no_utf8_are_no_host_name(trees: Trees):
    write(trees, {"web": b"gorgo\n\xff\n"})
    assert "groups/web:2: " in problems(trees, "@web")[0]


def test_memberships_tell_the_groups_of_each_host_and_all_mistakes_at_once(trees: Trees):
    write(trees, {"web": "*.univ.run\n!stheno*\n", "all": "*\nnew\n@gone\n", "maintenance": "", "bad": "a b\n"})
    found, wrong = memberships(trees)
    assert found == {"gorgo": ["all"], "medusa.univ.run": ["all", "web"], "stheno.univ.run": ["all"], "new": ["all"]}
    assert [(problem.position.line, problem.message) for problem in wrong if problem.position] == [
        (3, "unknown group `@gone`"),
        (1, "`a b` is not a host name"),
    ]


# --- what is taken away


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["*", "!gorgo"], ["medusa.univ.run", "stheno.univ.run"]),
        (["*", "!*.univ.run"], ["gorgo"]),
        (["*.univ.run", "!med*"], ["stheno.univ.run"]),
        (["gorgo", "new.example", "!gorgo"], ["new.example"]),
        (["adm@*", "!gorgo", "!stheno*"], ["medusa.univ.run"]),
        (["*", "!@down"], ["medusa.univ.run", "stheno.univ.run"]),
        (["*", "!@nobody"], ALL),
        (["medusa.univ.run", "!@down"], ["medusa.univ.run"]),
        (["*", "!@down", "!@nobody", "!stheno.univ.run"], ["medusa.univ.run"]),
    ],
)
def test_what_stands_behind_a_bang_is_taken_away_wherever_it_stands(
    trees: Trees, words: list[str], expected: list[str]
):
    write(trees, {"down": "gorgo\n", "nobody": "# today\n"})
    for order in itertools.permutations(words):
        assert sorted(names(trees, ",".join(order))) == expected
        write(trees, {"list": "\n".join(order)})
        assert sorted(names(trees, "@list")) == expected


def test_a_group_takes_away_from_itself_only(trees: Trees):
    write(trees, {"web": "*\n!gorgo\n"})
    assert names(trees, "@web,gorgo") == ["medusa.univ.run", "stheno.univ.run", "gorgo"]
    assert names(trees, "*,!@web") == ["gorgo"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("!gorgo", "the list of hosts only excludes hosts: `!gorgo`; name hosts too, e.g. `*`"),
        ("gorgo,!gorgo", "no host is left of the list of hosts: `!gorgo`"),
        ("*,!*", "no host is left of the list of hosts: `!*`"),
        ("*,!grgo", "`!grgo` excludes nothing: no such host is named; did you mean `gorgo`?"),
        ("gorgo,!web*", "`!web*` excludes nothing: no such host is named"),
        ("*,!adm@gorgo", "`!adm@gorgo` names a user, expected a host"),
        ("*,!@dwon", "unknown group `@dwon`; did you mean `@down`?"),
        ("@only", "groups/only:2: group `@only` only excludes hosts: `!gorgo`; name hosts too, e.g. `*`"),
        ("@none", "groups/none:2: no host is left of group `@none`: `!gorgo`"),
        ("*,!@only", "groups/only:2: group `@only` only excludes hosts: `!gorgo`; name hosts too, e.g. `*`"),
    ],
)  # fmt: skip
def test_r42_a_list_that_nothing_is_left_of_or_a_mistyped_bang_is_an_error(trees: Trees, words: str, message: str):
    write(trees, {"down": "gorgo\n", "only": "# but\n!gorgo\n", "none": "gorgo\n!gorgo\n"})
    assert problems(trees, words) == [message]


@settings(suppress_health_check=list(HealthCheck), deadline=None)
@given(st.lists(st.sampled_from([*ALL, "*", "*.univ.run", "m*"]), max_size=4), st.lists(st.sampled_from(ALL)))
def test_a_selection_is_all_that_is_named_less_all_that_is_taken_away(trees: Trees, named: list[str], away: list[str]):
    words = [*(f"!{name}" for name in away), *named]
    try:
        left = set(names(trees, *words))
    except InputError:
        return
    every = {name for word in named for name in names(trees, word)}
    assert left == every - set(away)
    assert left or not words


def test_the_group_of_the_how_to_is_what_it_says(tmp_path: Path):
    page = Path(__file__).parents[2] / "docs/how-to.md"
    text = page.read_text().partition("<!-- file: groups/web -->\n```\n")[2].partition("```")[0]
    for host in ("www1", "www2", "medusa"):
        (tmp_path / "univ.run" / host).mkdir(parents=True)
    (tmp_path / "groups").mkdir()
    trees = Trees((tmp_path,))
    write(trees, {"web": text, "static": "cdn.univ.run\n", "maintenance": ""})
    assert names(trees, "@web") == ["www1.univ.run", "www2.univ.run", "cdn.univ.run"]
    write(trees, {"maintenance": "www2.univ.run\n"})
    assert names(trees, "@web") == ["www1.univ.run", "cdn.univ.run"]


# --- growth


@pytest.mark.parametrize("exceptions", [False, True])
def test_groups_that_each_include_the_next_one_twice_are_read_once(
    trees: Trees, monkeypatch: pytest.MonkeyPatch, *, exceptions: bool
):
    """D22: 30 levels are 2^30 ways to the last group."""
    read: list[str] = []
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path.name) or path.open("rb").read())
    more = "!@x{0}\n" if exceptions else ""
    levels = {f"g{n}": f"@g{n + 1}\n@g{n + 1}\n{more.format(n)}" for n in range(30)}
    write(trees, {**levels, "g30": "*\n", **{f"x{n}": f"@x{n + 1}\n@x{n + 1}\n" for n in range(30)}, "x30": "gorgo\n"})
    assert names(trees, "@g0") == (ALL[1:] if exceptions else ALL)
    assert len(read) == len(set(read))
    found, wrong = memberships(trees)
    assert (len(found["medusa.univ.run"]), wrong) == (31, [])


def test_groups_too_deep_are_an_error_not_a_traceback(trees: Trees):
    """D22: a recursion over a graph has its limit."""
    write(trees, {**{f"g{n}": f"@g{n + 1}\n" for n in range(1000)}, "g1000": "gorgo\n"})
    assert problems(trees, "@g0") == ["groups/g99:1: `@g100` lies more than 100 groups deep in `@g0`"]


def test_a_wrong_group_is_wrong_wherever_it_is_named(trees: Trees):
    """D22: what is remembered has its problems too: no second message about a list that is incomplete."""
    write(trees, {"a": "@b\n!medusa.univ.run\n", "b": "gorgo\nwrong name\n"})
    assert problems(trees, "@b", "@a") == ["groups/b:2: `wrong name` is not a host name"]
