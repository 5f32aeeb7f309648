"""Facts as a text of the file's format, and which settings of a sysinfos.conf are expected facts."""

from __future__ import annotations

import subprocess

import pytest

from runsdeploy.errors import Position
from runsdeploy.events import Facts, Refusal
from runsdeploy.plan.conf import Setting
from runsdeploy.plan.plan import Plan
from runsdeploy.plan.sysinfos import ExpectedFacts, expected_facts, format_facts
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
    assert format_facts(facts) == "sysdist=(rocky rhel 'a b' 'it'\\''s')\nbits=64\n"
    said = subprocess.run(
        ["bash", "-c", f'{format_facts(facts)}printf "%s|" "${{sysdist[@]}}" "$bits"'], capture_output=True, check=True
    ).stdout
    assert said == b"rocky|rhel|a b|it's|64|"


def test_facts_that_sysinfos_conf_sets_are_expected_and_those_of_other_files_are_not():
    settings = [
        setting("sysdist", "()", b"fedora", file="hosts/medusa/runs.conf"),
        setting("sysdist", "()", b"debian", b"linux"),
        setting("port", "=", b"80"),
        setting("bits", "=", b"64"),
        setting("sysver", "()", b"1", file="scripts/it"),
    ]
    expected = expected_facts(settings, FILE)
    assert expected == ExpectedFacts(FILE, (("sysdist", (b"debian", b"linux")), ("bits", (b"64",))))
    assert expected.encoded == "sysdist:debian:linux/bits:64"


def test_operations_on_facts_change_the_expected_facts():
    settings = [setting("sysver", "()", b"12", b"x"), setting("sysver", "+=", b"12"), setting("sysver", "-=", b"x")]
    assert expected_facts([*settings, setting("sysver", "+=", b"bookworm")], FILE) == ExpectedFacts(
        FILE, (("sysver", (b"12", b"bookworm")),)
    )


@pytest.mark.parametrize("settings", [[], [setting("port", "=", b"1")], [setting("sysver", "()")]])
def test_a_file_that_sets_no_facts_expects_nothing(settings: list[Setting]):
    assert expected_facts(settings, FILE) is None


def test_odd_bytes_of_expected_facts_cannot_become_words_of_their_own():
    expected = ExpectedFacts(FILE, (("sysdist", (b"a b/bits:32\n\x1e\xff", b"", b"linux")), ("bits", (b"",))))
    assert expected.encoded == "sysdist:a_b_bits_32___:linux"
    assert " " not in expected.encoded


def expecting(*steps) -> Plan:
    made = plan(*steps)
    return Plan(made.host, made.steps, made.libraries, ExpectedFacts(FILE, (("bits", (b"32",)),)))


def segments_that_check(each: Plan) -> list[int]:
    session = Session("1", "me")
    return [
        segment.number
        for segment in cut(each)
        if any(member.path.endswith("/facts.sh") for member in members(each, segment, session, ()))
    ]


def test_expected_facts_are_sent_with_the_first_segment_if_it_runs_on_the_target():
    assert segments_that_check(expecting(step(number=1), step(number=2, flags="local"), step(number=3))) == [0]
    assert segments_that_check(expecting(step(number=1, flags="local"), step(number=2))) == []
    assert segments_that_check(plan(step(number=1))) == []


def test_expected_facts_are_not_part_of_the_digest_of_a_plan():
    assert expecting(step()).digest == plan(step()).digest


def test_an_unexpected_host_is_refused_with_the_file_and_the_repair():
    fold = Fold(expecting(step()))
    fold.add(Refusal("facts", "`bits` is `64` where `32` is expected"))
    report = fold.close(0.0)
    assert (report.outcome, report.message) == ("refused", f"{FILE}: `bits` is `64` where `32` is expected")
    assert report.hint.startswith("`runsdeploy sysinfos --host medusa.univ.run --save` saves its facts, ")


def test_a_refusal_for_another_reason_is_shown_unchanged():
    fold = Fold(expecting(step()))
    fold.add(Refusal("sudo", "no sudo"))
    report = fold.close(0.0)
    assert (report.message, report.hint) == ("no sudo", "")


def test_facts_go_over_the_wire_as_they_are():
    assert encode(Facts("sysver", ("12", "bookworm")), "n") == b"\x1en facts sysver 12 bookworm\n"
