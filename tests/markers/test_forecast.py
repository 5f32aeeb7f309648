"""Forecasts: the forecast of a step must agree with the outcome that the runner will report."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from runsdeploy.events import MarkerFound
from runsdeploy.markers.forecast import DONE, MAYBE, RUN, forecast
from runsdeploy.markers.marker import Markers, encode, path_of
from runsdeploy.plan.files import content_file
from tests import making

GUARD = "shouldrun || exit"


def markers(*done: str, account: str = "root", owner: str = "own", script: str = "web") -> Markers:
    """Return the markers that `setdone SUBSYSTEM [VALUE]` sets; an empty subsystem is the whole script."""
    found = Markers(account=account)
    for each in done:
        subsystem, given, value = each.partition("=")
        path = path_of(script.encode(), subsystem.encode())
        found.add(MarkerFound(owner, path, None))
        if given:
            found.add(MarkerFound(owner, path, encode(b"=" + value.encode())))
    return found


def said(body: str, *done: str, **more: object) -> str:
    planned = making.plan(making.step(body, **more))  # type: ignore[arg-type]
    outcome, reason = forecast(planned, markers(*done), Markers())[1]
    assert reason
    return outcome


TABLE = [
    ("no guard", "echo hi\n", [], RUN),
    ("no guard, though something is marked", "echo hi\n", ["", "a"], RUN),
    ("the idiom", f"{GUARD}\nx\nsetdone\n", [], RUN),
    ("the idiom, done", f"{GUARD}\nx\nsetdone\n", [""], DONE),
    ("the idiom, another subsystem done", f"{GUARD}\nx\nsetdone\n", ["a"], RUN),
    ("the idiom with a status", "shouldrun || exit 0\nx\n", [""], DONE),
    ("the idiom with the same status", "shouldrun || exit $?\nx\n", [""], DONE),
    ("the idiom with a message", "shouldrun || { einfo done; exit 0; }\nx\n", [""], DONE),
    ("the idiom with a comment", "shouldrun || exit # done\nx\n", [""], DONE),
    ("below harmless lines", f"# c\n\nset -eu\netitle hello\nurequire uinst\nx=1\n{GUARD}\ny\n", [""], DONE),
    ("below harmless lines, not done", f"etitle hello\n{GUARD}\ny\n", [], RUN),
    ("a subsystem", "shouldrun a || exit\nx\n", ["a"], DONE),
    ("a quoted subsystem", "shouldrun 'a b' || exit\nx\n", ["a b"], DONE),
    ("a subsystem, the script done", "shouldrun a || exit\nx\n", [""], RUN),
    ("the same value", "shouldrun a 1 || exit\nx\n", ["a=1"], DONE),
    ("another value", "shouldrun a 2 || exit\nx\n", ["a=1"], RUN),
    ("a value, none marked", "shouldrun a 1 || exit\nx\n", ["a"], RUN),
    ("no value, one marked", "shouldrun a || exit\nx\n", ["a=1"], DONE),
    ("an empty value", 'shouldrun a "" || exit\nx\n', ["a="], DONE),
    ("if", "if shouldrun a; then\n x; setdone a\nfi\n", ["a"], DONE),
    ("if, not done", "if shouldrun a; then\n x; setdone a\nfi\n", [], RUN),
    ("if not", "if ! shouldrun; then exit 0; fi\nx\n", [""], DONE),
    ("and", "shouldrun a && x\n", ["a"], DONE),
    ("two, both done", "shouldrun a && x\nshouldrun b && y\n", ["a", "b"], DONE),
    ("two, none done", "shouldrun a && x\nshouldrun b && y\n", [], RUN),
    ("two, the first not done", "shouldrun a && x\nshouldrun b && y\n", ["b"], RUN),
    ("a value known only when it runs", 'shouldrun a "$(date)" || exit\n', ["a=1"], MAYBE),
    ("a value of a command", "v=`date`\nshouldrun a $v || exit\n", ["a=1"], MAYBE),
    ("a value of an unknown variable", 'shouldrun a "$HOME" || exit\n', ["a=1"], MAYBE),
    ("a guard below something", "x || exit\nshouldrun || exit\n", [""], MAYBE),
    ("a guard in a function that is not called", "f() {\n  shouldrun || exit\n}\n", [""], RUN),
    ("a guard in a function", 'f() {\n  shouldrun "$1" || exit\n}\nf a\n', ["a"], DONE),
    ("a guard in a loop", 'for i in a b; do shouldrun "$i" && x; done\n', ["a"], RUN),
    ("a guard in a loop, all done", 'for i in a b; do shouldrun "$i" && x; done\n', ["a", "b"], DONE),
    ("a guard in a loop over what is not known", 'for i in *; do shouldrun "$i" && x; done\n', ["a"], MAYBE),
    ("a guard that a test decides on", "[ -e x ] || shouldrun a || exit\ny\n", ["a"], MAYBE),
    ("a guard that is evaluated", "eval 'shouldrun || exit'\n", [""], MAYBE),
    ("a guard in a substitution", 'x=$(shouldrun && echo yes)\n', [""], MAYBE),
    ("a guard that marks itself", "while shouldrun a; do setdone a; done\n", [], RUN),
    ("no value but a marker that was made by another version", "shouldrun a 1 || exit\n", ["a="], RUN),
    ("a text that is not understood, without a guard", "select x in a b; do :; done\n", [""], RUN),
    ("a text that is not understood, with a guard", "select x in a b; do shouldrun; done\n", [""], MAYBE),
    ("a guard of another name", "shouldrun() { :; }\nshouldrun || exit\n", [""], MAYBE),
    ("a loop without end", "while :; do x=$((x + 1)); done\nshouldrun || exit\n", [""], MAYBE),
    ("a function without end", "f() { f; }\nf\nshouldrun || exit\n", [""], MAYBE),
    ("set -e", "set -e\nshouldrun a\nx\n", ["a"], DONE),
    ("a guard behind a command that is taken to succeed", "mkdir -p x\nshouldrun || exit\n", [""], DONE),
    ("a comment is no guard", "# shouldrun || exit\nx\n", [""], RUN),
    ("a longer word is no guard", "my-shouldrun || exit\n", [""], RUN),
    ("a variable with the name is no guard", "shouldrunner=1\n", [""], RUN),
    ("a continued guard", "shouldrun \\\n  a || exit\n", ["a"], DONE),
    ("two settings on a line", 'v=2\nw="$v" x="$v"\nshouldrun a "$w" && {\n x\n}\n', ["a=2"], DONE),
    ("variables of a function", 'v=1\nf() { local w="$(x)" v=2; }\nf\nshouldrun a $v || exit\n', ["a=1"], DONE),
    ("deeper than can be followed", f"{': && ' * 3000}:\nshouldrun || exit\n", [""], MAYBE),
    ("a guard behind two functions in a pipeline", "g() { shouldrun || exit; }\nf() { g; }\nf | cat\n", [""], DONE),
    ("a guard behind two functions in the background", "g() { shouldrun || exit; }\nf() { g; }\nf &\n", [""], MAYBE),
    ("a guard with a redirection", "shouldrun a 2>/dev/null || exit\n", ["a"], DONE),
]  # fmt: skip


@pytest.mark.parametrize(("body", "done", "outcome"), [each[1:] for each in TABLE], ids=[each[0] for each in TABLE])
def test_a_section_and_its_markers_make_a_forecast(body: str, done: list[str], outcome: str):
    assert said(body, *done) == outcome


AFTER_YES = [
    ("eval", 'eval "$x"'),
    ("a file that a variable names", '. "$lib"'),
    ("a file of the working directory", "source ./lib.sh"),
    ("a text that is not understood", "select x in a b; do :; done"),
    ("a fall-through", "case $1 in a) x ;& b) y ;; esac"),
    ("a coprocess", "coproc x"),
    ("broken quoting", 'echo "'),
    ("a here-document without an end", "cat <<END"),
    ("a guard in the background", "shouldrun b &"),
    ("a guard in a substitution", "y=$(shouldrun b && echo yes)"),
    ("a guard of another name", "setdone() { :; }"),
    ("a computed command", "$shouldrun b"),
    ("a trap that exits", "trap 'exit 0' EXIT"),
    ("its own end", "kill -TERM $$"),
    ("a library that a variable names", 'urequire "$lib"'),
    ("a function without end", "f() { f; }; f"),
    ("many paths", "if a; then x=1; fi\n" + "".join(f"if a; then x{n}=1; else x{n}=2; fi\n" for n in range(9))),
    ("many iterations", f"for i in {' '.join(map(str, range(100)))}; do shouldrun $i || continue; done"),
    ("a loop without end", "while :; do x=$((x + 1)); done"),
    ("depth", f"{': && ' * 3000}:"),
    ("length", "x=1\n" * 21_000),
    ("a subshell", '(eval "$x")\nexit 0'),
    ("a function", 'f() { eval "$x"; }\nf\nexit 0'),
    ("a pipeline", 'x | { eval "$x"; shouldrun b; }\nexit 0'),
]  # fmt: skip

UNENDED = ('echo "', "cat <<END")
"""what bash refuses too, in a compound command"""


@pytest.mark.parametrize("more", [each[1] for each in AFTER_YES], ids=[each[0] for each in AFTER_YES])
def test_once_a_guard_says_yes_nothing_below_it_changes_the_forecast(more: str):
    """D16."""
    body = f"{GUARD}\n{more}\nsetdone\n"
    assert said(body) == RUN
    assert said(f"if shouldrun; then\n{more}\nfi\n") == (MAYBE if more in UNENDED else RUN)
    assert said(f"shouldrun a || exit\n{more}\n", "") == RUN
    assert said(body, flags="strict") == RUN
    # The guard that leaves: what stands below it is never reached.
    assert said(body, "") == DONE


@pytest.mark.parametrize("more", [each[1] for each in AFTER_YES[:14]], ids=[each[0] for each in AFTER_YES[:14]])
def test_what_is_not_known_above_a_guard_or_below_a_no_is_not_said(more: str):
    """D16."""
    assert said(f"{more}\n{GUARD}\nsetdone\n") == MAYBE
    assert said(f"shouldrun a && x\n{more}\nshouldrun c\n", "a") == MAYBE


def test_a_yes_in_a_loop_without_end_is_a_yes():
    """D16."""
    assert said("while :; do shouldrun a && x; done\n") == RUN


def test_markers_that_a_step_may_have_set_out_of_sight_are_not_known_to_the_next_one():
    """D16."""
    steps = [making.step(f"{GUARD}\neval x\n", number=1), making.step(f"{GUARD}\neval x\n", number=2)]
    said_of = forecast(making.plan(*steps), markers(), Markers())
    assert [said_of[1][0], said_of[2][0]] == [RUN, MAYBE]


NOT_DONE = [
    ("the section leaves with a failure", "shouldrun || exit 1\nx\n", [""]),
    ("the section dies", "shouldrun || die done before\nx\n", [""]),
    ("the marker is taken back before the second guard",
     "shouldrun a && x\nresetdone b\nshouldrun b || exit\ny\n", ["a", "b"]),
    ("the guard stands in a text", "text='\nshouldrun || exit\n'\necho \"$text\" >/etc/profile.d/x\n", [""]),
]  # fmt: skip


@pytest.mark.parametrize(("body", "done"), [each[1:] for each in NOT_DONE], ids=[each[0] for each in NOT_DONE])
def test_already_done_is_not_said_where_the_section_may_end_otherwise(body: str, done: list[str]):
    assert said(body, *done) != DONE


def test_would_run_is_not_said_where_the_section_sets_the_marker_before_it_asks():
    assert said("setdone a\nshouldrun a || exit\nx\n") != RUN


@pytest.mark.parametrize(("value", "outcome"), [("1", DONE), ("2", RUN)])
def test_variables_of_the_step_are_known(value: str, outcome: str):
    body = 'shouldrun "$sub" "v${version}" || exit\n'
    variables = (making.variable("sub", "a"), making.variable("version", value))
    assert said(body, "a=v1", variables=variables) == outcome


@pytest.mark.parametrize(
    ("body", "values", "array"),
    [
        ("version=$(x)\nshouldrun a $version || exit\n", ["1"], False),
        ("read -r version\nshouldrun a $version || exit\n", ["1"], False),
        ("for version in *; do\nshouldrun a $version || exit\ndone\n", ["1"], False),
        (". /etc/os-release\nshouldrun a $version || exit\n", ["1"], False),
        ("for ((version = 2; version < 3; version++)); do :; done\nshouldrun a $version || exit\n", ["1"], False),
        ("x='*'\n[[ $version == $x ]] || shouldrun a 1 || exit\n", ["1"], False),
        ("((version++))\nshouldrun a $version || exit\n", ["1"], False),
        ("shouldrun a $version || exit\n", ["1 2"], False),
        ("IFS=.\nshouldrun a $version || exit\n", ["1"], False),
        ("shouldrun a $version || exit\n", [""], False),
        ("shouldrun a $version || exit\n", ["1"], True),
    ],
)
def test_a_variable_whose_value_may_be_another_then_is_not_known(body: str, values: list[str], array: bool):  # noqa: FBT001
    assert said(body, "a=1", variables=(making.variable("version", *values, array=array),)) == MAYBE


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        ('shouldrun a "${packages[*]}" || exit\n', DONE),
        ('IFS=,\nshouldrun a "${packages[*]}" || exit\n', RUN),
        ('IFS=$(x)\nshouldrun a "${packages[*]}" || exit\n', MAYBE),
        ('. /etc/os-release\nshouldrun a "${packages[*]}" || exit\n', MAYBE),
        ('packages+=(nginx)\nshouldrun a "${packages[*]}" || exit\n', MAYBE),
        ('shouldrun a "${others[*]}" || exit\n', MAYBE),
    ],
)
def test_an_array_as_one_word_is_known_while_what_joins_it_is(body: str, outcome: str):
    assert said(body, "a=curl git", variables=(making.variable("packages", "curl", "git", array=True),)) == outcome


def test_conf_once_is_decided_by_the_marker_of_the_script():
    assert said("x\n", flags="once") == RUN
    assert said("x\n", "", flags="once") == DONE
    assert said("x\n", "a", flags="once") == RUN


def test_conf_onchange_is_decided_by_the_digest():
    digest = making.step("x\n", flags="onchange").digest
    assert said("x\n", flags="onchange") == RUN
    assert said("x\n", f"onchange={digest}", flags="onchange") == DONE
    assert said("x\n", "onchange=other", flags="onchange") == RUN
    assert said("x\n", f"onchange={digest}", flags="onchange", uses=("f",)) == MAYBE


def test_what_a_library_of_the_trees_asks_is_known_if_it_is_loaded_by_name():
    planned = making.plan(making.step("urequire ours\nx\n", libraries=("ours",)))
    planned = replace(planned, libraries=(content_file("lib/ours", f"{GUARD}\n".encode()),))
    assert forecast(planned, markers(""), Markers())[1] == (DONE, "line 1 of library `ours` finds its marker")
    assert forecast(planned, Markers(), Markers())[1][0] == RUN
    planned = replace(planned, steps=(making.step('urequire "$(x)"\n', libraries=("ours",)),))
    assert forecast(planned, markers(""), Markers())[1][0] == MAYBE


@pytest.mark.parametrize(
    ("account", "owner", "outcome"),
    [
        ("root", "own", DONE),
        ("sudo", "root", DONE),
        ("sudo", "own", RUN),
        ("user", "own", MAYBE),
        ("user", "root", MAYBE),
    ],
)
def test_a_script_for_root_is_judged_by_roots_markers(account: str, owner: str, outcome: str):
    planned = making.plan(making.step(f"{GUARD}\n", flags="root"))
    assert forecast(planned, markers("", account=account, owner=owner), Markers())[1][0] == outcome


def test_a_script_without_root_is_judged_by_the_markers_of_the_login_user():
    planned = making.plan(making.step(f"{GUARD}\n"))
    assert forecast(planned, markers("", account="sudo", owner="root"), Markers())[1][0] == RUN
    assert forecast(planned, markers("", account="user"), Markers())[1][0] == DONE


def test_a_local_script_is_judged_by_the_controllers_markers():
    planned = making.plan(making.step(f"{GUARD}\n", flags="local"))
    assert forecast(planned, markers(""), Markers())[1][0] == RUN
    assert forecast(planned, Markers(), markers(""))[1][0] == DONE


def test_a_script_that_runs_before_may_have_changed_its_markers():
    for setdone, second in (
        ("setdone", DONE),
        (":", RUN),
        ("[ -e x ] && setdone", DONE),
        ("[ -e x ] && setdone\n:", MAYBE),
    ):
        bodies = [f"{GUARD}\n{setdone}\n"] * 3
        steps = [
            making.step(body, n, name)
            for n, (body, name) in enumerate(zip(bodies, ["web", "web", "other"], strict=True), 1)
        ]
        twice = making.plan(*steps)
        assert [outcome for outcome, _ in forecast(twice, Markers(), Markers()).values()] == [RUN, second, RUN]
        assert [outcome for outcome, _ in forecast(twice, markers(""), Markers()).values()] == [DONE, DONE, RUN]


def test_the_reason_names_the_line_that_an_editor_shows():
    planned = making.plan(making.step(f"# 4\n{GUARD}\n", conf="desc x\nvar a=1\n"))
    assert forecast(planned, Markers(), Markers())[1] == (RUN, "line 5 finds no marker")
