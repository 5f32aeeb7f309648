"""Who set a variable: what counts, what changed nothing, what was overridden."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runsdeploy.errors import Position
from runsdeploy.plan.blame import operation_text, trace
from runsdeploy.plan.conf import Setting
from runsdeploy.plan.variable import Value
from runsdeploy.tree.recipe import Word, parse_call, parse_operations

SETTINGS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["=", "+=", "-="]), st.sampled_from([("a",), ("b",)])),
        st.tuples(st.just("()"), st.lists(st.sampled_from("ab"), max_size=2).map(tuple)),
    ),
    max_size=6,
)


def settings(*changes: tuple[str, tuple[str, ...]]) -> list[Setting]:
    return [
        Setting("x", kind, tuple(Value((value.encode(),)) for value in values), Position("runs.conf", line))
        for line, (kind, values) in enumerate(changes, 1)
    ]


def told(*changes: tuple[str, tuple[str, ...]]) -> list[str]:
    return [f"{origin} {origin.effect}" for origin in trace(settings(*changes), "x")]


def test_the_last_one_comes_first_and_hides_those_before_it():
    assert told(("=", ("a",)), ("=", ("b c",))) == ["x='b c' counts", "x=a overridden"]


def test_what_says_what_is_so_already_did_not_set_it():
    assert told(("=", ("a",)), ("=", ("a",))) == ["x=a unchanged", "x=a counts"]
    assert told(("()", ("a",)), ("+=", ("a",)), ("-=", ("b",))) == [
        "x-=b unchanged", "x+=a unchanged", "x=(a) counts"
    ]  # fmt: skip


def test_an_array_of_one_is_not_what_a_text_is():
    assert told(("=", ("a",)), ("()", ("a",))) == ["x=(a) counts", "x=a overridden"]


def test_what_is_added_does_not_hide_what_it_is_added_to():
    assert told(("()", ()), ("+=", ("a",)), ("+=", ("b",))) == ["x+=b counts", "x+=a counts", "x=() counts"]


def test_other_variables_are_left_out():
    assert trace(settings(("=", ("a",))), "y") == []


@given(SETTINGS)
def test_what_counts_alone_makes_the_same_value(changes: list[tuple[str, tuple[str, ...]]]):
    def value(of: list[Setting]) -> tuple[bool, list[Value]]:
        array, values = False, list[Value]()
        for each in of:
            array = each.kind != "="
            if each.kind == "+=":
                values = values + [each.values[0]] * (each.values[0] not in values)
            elif each.kind == "-=":
                values = [one for one in values if one != each.values[0]]
            else:
                values = list(each.values)
        return array, values

    every = settings(*changes)
    counting = [origin.setting for origin in trace(every, "x") if origin.effect == "counts"]
    assert value(counting[::-1]) == value(every)


@pytest.mark.parametrize("words", [["x=1"], ["x+=a b"], ["x-="], ["x='"], ["x", "a", "b c", ""], ["x"]])
def test_an_operation_is_written_as_a_recipe_could_have_it(words: list[str]):
    at = Position("r", 1, 1)
    (operation,), problems = (parse_call if len(words) > 1 else parse_operations)([Word(word, at) for word in words])
    assert not problems
    assert shlex.split(operation_text(operation)) == words
