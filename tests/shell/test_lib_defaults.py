"""DEFAULTS: messages, answers, quiet commands."""

from __future__ import annotations

import os
import signal

import pytest


def test_messages_have_one_form(bash, options: str):
    done = bash('etitle "Web  server"; estep a b; einfo "-n" "\\t%s"; ewarn w; eerror e', options=options)
    assert done == (0, "== Web  server\n * a b\n   -n \\t%s\n", " ! warning: w\n!! error: e\n")


def test_further_lines_stand_below_the_first(bash):
    assert bash("estep $'one\\ntwo'; einfo; etitle ''").out == " * one\n   two\n\n==\n"


@pytest.mark.parametrize(
    ("call", "status", "err"),
    [
        ("die no disk", 1, "!! error: no disk\n"),
        ("die -s 7 no disk", 7, "!! error: no disk\n"),
        ("die -- -s", 1, "!! error: -s\n"),
        ("die -s 0 no", 1, "!! error: die: `0` is not a status from 1 to 255: 1 is used\n!! error: no\n"),
        ("die -s", 1, "!! error: die: `` is not a status from 1 to 255: 1 is used\n!! error:\n"),
    ],
)
def test_die_ends_the_script_with_a_failure(bash, options: str, call: str, status: int, err: str):
    assert bash(f"{call}; echo alive", options=options) == (status, "", err)


@pytest.mark.parametrize("value", ["yes", "Y", "True", "t", "ON", "1", "oui", "O"])
def test_yes(bash, value: str):
    assert bash('is_yes "$1" && ! is_no "$1"', value).status == 0


@pytest.mark.parametrize("value", ["no", "N", "False", "f", "OFF", "0", "Non"])
def test_no(bash, value: str):
    assert bash('is_no "$1" && ! is_yes "$1"', value).status == 0


@pytest.mark.parametrize("value", ["", "maybe", "yes ", "11", "*"])
def test_neither_yes_nor_no(bash, value: str):
    assert bash('! is_yes "$1" && ! is_no "$1" && ! is_yes && ! is_no', value).status == 0


def test_quietly_says_nothing_of_a_success(bash, options: str):
    done = bash("quietly sh -c 'echo a; echo b >&2'; ls -A", options=options)
    assert done == (0, "", "")


def test_quietly_shows_a_failure_and_keeps_its_status(bash, options: str):
    done = bash("quietly sh -c 'echo a; echo b >&2; exit 7' || echo status $?; ls -A", options=options)
    assert done == (0, "status 7\n", "a\nb\n")


def test_quietly_does_not_hide_a_failure_from_errexit(bash):
    done = bash("f() { echo before; false; echo after; }; quietly f; echo alive")
    assert done == (1, "", "before\n")


def test_quietly_without_a_place_for_the_output_shows_it(bash):
    done = bash("RUNS_SHARED=/dev/null; quietly echo a")
    assert (done.status, done.out) == (0, "a\n")
    assert "cannot write" in done.err


def test_quietly_does_not_wait_for_a_daemon(bash, tmp_path):
    """It is ended by this test alone, and `bash` takes who waits for it for hung."""
    assert bash("quietly sh -c 'sleep 3600 & echo $! >daemon'").status == 0
    os.kill(int((tmp_path / "daemon").read_text()), signal.SIGKILL)
