"""Facts as a text of the file's format, and what of a sysinfos.conf is a promise."""

from __future__ import annotations

import subprocess

import pytest

from runsdeploy.errors import Position
from runsdeploy.events import Facts, Refusal
from runsdeploy.plan.conf import Setting
from runsdeploy.plan.plan import Plan
from runsdeploy.plan.sysinfos import ExpectedFacts, expected_facts, text
from runsdeploy.plan.variable import Value
from runsdeploy.session.bundle import members
from runsdeploy.session.event_line import encode
from runsdeploy.session.report import Fold
from runsdeploy.session.segment import cut
from runsdeploy.session.session import Session
from runsdeploy.tree.recipe import Operation
from tests.making import plan, step

FILE = "hosts/medusa/sysinfos.conf"


def setting(name: str, kind: str, *values: bytes, file: str = FILE) -> Setting:
    return Setting(name, kind, tuple(Value((value,)) for value in values), Position(file))


def test_facts_are_written_as_bash_reads_them_back():
    facts = [
        Operation("sysdist", "()", (b"rocky", b"rhel", b"a b", b"it's"), Position("x")),
        Operation("bits", "=", (b"64",), Position("x")),
    ]
    assert text(facts) == "sysdist=(rocky rhel 'a b' 'it'\\''s')\nbits=64\n"
    said = subprocess.run(
        ["bash", "-c", f'{text(facts)}printf "%s|" "${{sysdist[@]}}" "$bits"'], capture_output=True, check=True
    ).stdout
    assert said == b"rocky|rhel|a b|it's|64|"


def test_what_sysinfos_conf_says_is_a_promise_and_what_others_say_is_not():
    settings = [
        setting("sysdist", "()", b"fedora", file="hosts/medusa/runs.conf"),
        setting("sysdist", "()", b"debian", b"linux"),
        setting("port", "=", b"80"),
        setting("bits", "=", b"64"),
        setting("sysver", "()", b"1", file="scripts/it"),
    ]
    promise = expected_facts(settings, FILE)
    assert promise == ExpectedFacts(FILE, (("sysdist", (b"debian", b"linux")), ("bits", (b"64",))))
    assert promise.word == "sysdist:debian:linux/bits:64"


def test_operations_on_facts_are_part_of_the_promise():
    settings = [setting("sysver", "()", b"12", b"x"), setting("sysver", "+=", b"12"), setting("sysver", "-=", b"x")]
    assert expected_facts([*settings, setting("sysver", "+=", b"bookworm")], FILE) == ExpectedFacts(
        FILE, (("sysver", (b"12", b"bookworm")),)
    )


@pytest.mark.parametrize("settings", [[], [setting("port", "=", b"1")], [setting("sysver", "()")]])
def test_a_file_that_says_nothing_of_the_host_promises_nothing(settings: list[Setting]):
    assert expected_facts(settings, FILE) is None


def test_odd_bytes_of_a_promise_cannot_become_words_of_their_own():
    promise = ExpectedFacts(FILE, (("sysdist", (b"a b/bits:32\n\x1e\xff", b"", b"linux")), ("bits", (b"",))))
    assert promise.word == "sysdist:a_b_bits_32___:linux"
    assert " " not in promise.word


def promising(*steps) -> Plan:
    made = plan(*steps)
    return Plan(made.host, made.steps, made.libraries, ExpectedFacts(FILE, (("bits", (b"32",)),)))


def segments_that_check(each: Plan) -> list[int]:
    session = Session("1", "2", "me")
    return [
        segment.number
        for segment in cut(each)
        if any(member.path.endswith("/facts.sh") for member in members(each, segment, session, ()))
    ]


def test_the_promise_travels_with_the_first_segment_if_that_is_the_target_s():
    assert segments_that_check(promising(step(number=1), step(number=2, flags="local"), step(number=3))) == [0]
    assert segments_that_check(promising(step(number=1, flags="local"), step(number=2))) == []
    assert segments_that_check(plan(step(number=1))) == []


def test_a_promise_is_no_part_of_what_a_plan_is():
    assert promising(step()).digest == plan(step()).digest


def test_a_broken_promise_is_told_with_its_file_and_the_repair():
    fold = Fold(promising(step()))
    fold.add(Refusal("facts", "`bits` is `64` where `32` is promised"))
    report = fold.close(0.0)
    assert (report.outcome, report.message) == ("refused", f"{FILE}: `bits` is `64` where `32` is promised")
    assert report.hint.startswith("`runsdeploy sysinfos --host medusa.univ.run --save` writes what it is, ")


def test_a_refusal_for_another_reason_is_told_as_it_is():
    fold = Fold(promising(step()))
    fold.add(Refusal("sudo", "no sudo"))
    report = fold.close(0.0)
    assert (report.message, report.hint) == ("no sudo", "")


def test_facts_go_over_the_wire_as_they_are():
    assert encode(Facts("sysver", ("12", "bookworm")), "n") == b"\x1en facts sysver 12 bookworm\n"
