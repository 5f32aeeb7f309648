"""What operators read when something is wrong: exact texts."""

from __future__ import annotations

import pytest

from runsdeploy.errors import HostError, InputError, Lost, Position, Problem, Refused, Unreachable, did_you_mean


@pytest.mark.parametrize(
    ("position", "text"),
    [
        (Position("f"), "f"),
        (Position("f", 3), "f:3"),
        (Position("f", 3, 7), "f:3:7"),
        (Position("<command line>"), "<command line>"),
    ],
)
def test_a_position_reads_as_editors_take_it(position: Position, text: str):
    assert str(position) == text


@pytest.mark.parametrize(
    ("problem", "text"),
    [
        (Problem(None, "no host given"), "no host given"),
        (Problem(None, "no host given", "name one"), "no host given; name one"),
        (Problem(Position("default", 1, 2), "unknown script `x`"), "default:1:2: unknown script `x`"),
        (
            Problem(Position("default", 1, 2), "unknown script `ngnix`", "did you mean `nginx`?"),
            "default:1:2: unknown script `ngnix`; did you mean `nginx`?",
        ),
    ],
)
def test_a_problem_is_one_line_of_place_message_and_hint(problem: Problem, text: str):
    assert str(problem) == text


def test_t9_a_word_of_several_lines_does_not_look_like_further_problems():
    problem = Problem(Position("default", 3, 1), "bad operation `b\nother:1: all is lost`")
    assert str(problem) == "default:3:1: bad operation `b\\nother:1: all is lost`"


def test_bad_input_is_every_problem_once_in_order():
    one, two = Problem(None, "b"), Problem(None, "a")
    error = InputError([one, two, Problem(None, "b")])
    assert error.problems == (one, two)
    assert str(error) == "b\na"


@pytest.mark.parametrize("kind", [HostError, Unreachable, Refused, Lost])
def test_an_error_of_a_host_has_a_message_and_maybe_a_hint(kind: type[HostError]):
    assert str(kind("no route")) == "no route"
    error = kind("no route", "try `ping`")
    assert (str(error), error.message, error.hint) == ("no route; try `ping`", "no route", "try `ping`")


def test_a_near_name_is_offered_and_a_far_one_is_not():
    assert did_you_mean("ngnix", ["apache", "nginx"]) == "did you mean `nginx`?"
    assert did_you_mean("zzz", ["apache", "nginx"]) == ""
    assert did_you_mean("zzz", iter([])) == ""
