"""What a machine is, found by POSIX sh in the files that distributions publish, and compared with expected facts.

Systems that are not here are stood in for by their `uname` and `sw_vers` on PATH; the shells and the files are real.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from runsdeploy.events import Facts
from runsdeploy.session.event_line import parse

FACTS = Path(__file__).parents[2] / "runsdeploy" / "shell" / "facts.sh"
PUBLISHED = Path(__file__).with_name("os-release")
LINUX = "Linux 6.1.0-18-amd64 x86_64"
SHELLS = {"dash": ["dash"], "bash": ["bash"], "bash as sh": ["bash", "--posix"], "busybox": ["busybox", "sh"]}


class Machine:
    """A fake root, and fake programs before the real ones on PATH."""

    def __init__(self, root: Path, shell: list[str]) -> None:
        if not shutil.which(shell[0]):
            pytest.fail(f"needs {shell[0]}: apt-get install {shell[0]}")
        self.root, self.shell = root / "root", shell
        self.bin = root / "bin"
        for folder in (self.root / "etc", self.root / "usr/lib", self.bin):
            folder.mkdir(parents=True)
        self.program("uname", f'[ "$1" = -srm ] && echo {LINUX}')

    def program(self, name: str, text: str) -> None:
        path = self.bin / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def release(self, text: str | bytes, place: str = "etc/os-release") -> None:
        (self.root / place).write_bytes(text if isinstance(text, bytes) else text.encode())

    def run(self, call: str, *words: str) -> str:
        done = subprocess.run(
            [*self.shell, "-c", f'. "$1"; shift; {call}', "sh", str(FACTS), str(self.root), *words],
            env={"PATH": f"{self.bin}:/usr/bin:/bin", "HOME": str(self.root)},
            stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=30, cwd=PUBLISHED,
        )  # fmt: skip
        assert not done.stderr
        return done.stdout.decode()

    def facts(self) -> list[str]:
        return self.run('find_facts "$1"; printf "%s\\n" "$sysname" "$sysdist" "$sysver" "$bits"').splitlines()

    def contradicts(self, expected: str) -> str:
        return self.run('contradictions "$2" "$1"', expected)


@pytest.fixture(params=SHELLS.values(), ids=SHELLS)
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Machine:
    return Machine(tmp_path, request.param)


SYSTEMS = {
    "debian-12": ("debian linux", "12 bookworm"),
    "debian-testing": ("debian linux", "trixie"),
    "ubuntu-22.04": ("ubuntu debian linux", "22.04 22 jammy"),
    "linuxmint-18.1": ("linuxmint ubuntu linux", "18.1 18 serena"),
    "centos-7": ("centos rhel fedora linux", "7"),
    "rhel-7.4": ("rhel fedora linux", "7.4 7"),
    "almalinux-9.2": ("almalinux rhel centos fedora linux", "9.2 9"),
    "fedora-24": ("fedora linux", "24"),
    "alpine-3.10": ("alpine linux", "3.10.5 3.10 3"),
    "arch": ("arch linux", "rolling"),
    "gentoo": ("gentoo linux", ""),
    "sles-12.2": ("sles linux", "12.2 12"),
    "leap-42.3": ("opensuse suse linux", "42.3 42"),
    "tumbleweed": ("opensuse suse linux", "20170726"),
}


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_linux_is_what_its_os_release_says(machine: Machine, name: str):
    machine.release((PUBLISHED / name).read_bytes())
    assert machine.facts() == ["linux", *SYSTEMS[name], "64"]


def test_every_published_file_is_looked_at():
    assert {path.name for path in PUBLISHED.iterdir()} == {*SYSTEMS, "freebsd-13.0"}


def test_freebsd_is_known_with_and_without_os_release(machine: Machine):
    machine.program("uname", "echo FreeBSD 13.0-RELEASE-p4 amd64")
    assert machine.facts() == ["freebsd", "freebsd", "13.0 13", "64"]
    machine.program("freebsd-version", "echo 13.2-RELEASE-p1")
    assert machine.facts() == ["freebsd", "freebsd", "13.2 13", "64"]
    machine.release((PUBLISHED / "freebsd-13.0").read_bytes())
    assert machine.facts() == ["freebsd", "freebsd", "13.0 13", "64"]


def test_macos_is_known_by_its_product_version(machine: Machine):
    machine.program("uname", "echo Darwin 23.4.0 arm64")
    machine.program("sw_vers", '[ "$1" = -productVersion ] && echo 14.4.1')
    assert machine.facts() == ["darwin", "macos darwin", "14.4.1 14.4 14", "64"]


@pytest.mark.parametrize(
    ("machine_word", "bits"),
    [("x86_64", "64"), ("aarch64", "64"), ("s390x", "64"), ("ppc64le", "64"), ("i686", "32"), ("armv7l", "32")],
)
def test_bits_are_those_of_the_machine(machine: Machine, machine_word: str, bits: str):
    machine.program("uname", f"echo Linux 6.1 {machine_word}")
    assert machine.facts()[3] == bits


def test_without_an_os_release_the_kernel_is_all_that_is_known(machine: Machine):
    assert machine.facts() == ["linux", "linux", "6.1.0 6.1 6", "64"]


def test_the_vendor_s_file_counts_where_the_administrator_has_none(machine: Machine):
    machine.release("ID=vendor\nVERSION_ID=2\n", "usr/lib/os-release")
    assert machine.facts()[1] == "vendor linux"
    machine.release("ID=mine\n")
    assert machine.facts()[1:3] == ["mine linux", ""]


@pytest.mark.parametrize(
    ("line", "dist"),
    [
        ("ID=plain", "plain linux"),
        ('ID="double"', "double linux"),
        ("ID='single'", "single linux"),
        ('ID="with blanks"  ', "with blanks linux"),
        ('ID="back\\slash"', "backslash linux"),
        ("ID=a\\\\b", "a_b linux"),
        ("ID='a\\b'", "a_b linux"),
        ('ID="a\\"b"', "a_b linux"),
        ("ID=dos\r", "dos linux"),
        ("ID=first\nID=last", "last linux"),
        ("#ID=comment\n\nNOT_ID=x\nID=real", "real linux"),
        ("ID=no-newline-at-end", "no-newline-at-end linux"),
        ("ID=$(touch${IFS}evil)", "__touch__IFS_evil_ linux"),
        ("ID=`id`", "_id_ linux"),
        ('ID="* ? [a-z]*"', "_ _a-z__ linux"),
        ("ID=a;touch evil", "a_touch evil linux"),
        ("ID=", "linux"),
        ('ID="', "_ linux"),
        ("ID=linux\nID_LIKE=linux", "linux"),
        ("ID=" + "x" * 70, "x" * 64 + " linux"),
    ],
)
def test_a_file_is_parsed_as_the_manual_says_and_never_run(machine: Machine, line: str, dist: str):
    machine.release(line)
    assert machine.facts()[1] == dist
    assert not (PUBLISHED / "evil").exists()


def test_odd_bytes_become_something_that_can_be_sent(machine: Machine):
    machine.release(b'ID="caf\xc3\xa9 \xff\x1b[2J\x1e"\nVERSION_ID="1.2 beta"\n')
    for name, words in zip(("sysname", "sysdist", "sysver"), machine.facts(), strict=False):
        assert isinstance(parse(f"facts {name} {words}".encode()), Facts), words


MACHINES = {"debian-12": "debian-12", "alma": "almalinux-9.2", "ubuntu": "ubuntu-22.04", "testing": "debian-testing"}


@pytest.mark.parametrize(
    ("name", "expected", "wrong"),
    [
        ("debian-12", "sysname:linux/sysdist:debian:linux/sysver:12:bookworm/bits:64", ""),
        ("debian-12", "sysdist:debian", ""),
        ("debian-12", "sysdist:linux", ""),
        ("debian-12", "sysver:bookworm", ""),
        ("debian-12", "sysver:12.4", ""),
        ("debian-12", "sysname:linux64:linux", ""),
        ("debian-12", "sysver:1", "sysver"),
        ("debian-12", "sysver:11:bullseye", "sysver"),
        ("debian-12", "sysver:2", "sysver"),
        ("debian-12", "bits:32", "bits"),
        ("debian-12", "sysname:freebsd", "sysname"),
        ("debian-12", "sysdist:fedora:linux", "sysdist"),
        ("debian-12", "sysdist:ubuntu:debian:linux", "sysdist"),
        ("debian-12", "sysdist:d*:linux", "sysdist"),
        ("ubuntu", "sysdist:debian:linux", ""),
        ("ubuntu", "sysver:22.04:22:jammy", ""),
        ("ubuntu", "sysver:24.04:24:noble", "sysver"),
        ("alma", "sysdist:rhel", ""),
        ("alma", "sysver:9", ""),
        ("alma", "sysver:9.1:9", ""),
        ("alma", "sysver:9.1", "sysver"),
        ("alma", "sysver:9.20", "sysver"),
        ("alma", "sysver:8", "sysver"),
        ("testing", "sysver:13:trixie", ""),
        ("testing", "sysver:12:bookworm", "sysver"),
        ("debian-12", "sysver:11/bits:32/sysdist:arch", "sysver bits sysdist"),
    ],
)
def test_expected_facts_are_contradicted_by_another_distribution_version_or_machine(
    machine: Machine, name: str, expected: str, wrong: str
):
    machine.release((PUBLISHED / MACHINES[name]).read_bytes())
    said = machine.contradicts(expected)
    assert [each.split("`")[1] for each in said.split(", ") if each] == wrong.split()
    assert "\n" not in said


def test_what_a_machine_does_not_tell_is_not_contradicted(machine: Machine):
    machine.release((PUBLISHED / "gentoo").read_bytes())
    assert not machine.contradicts("sysver:17/sysdist:gentoo")


def test_both_sides_are_told(machine: Machine):
    machine.release((PUBLISHED / "debian-12").read_bytes())
    assert machine.contradicts("sysdist:fedora:linux") == (
        "`sysdist` is `debian linux` where `fedora linux` is expected"
    )


def test_facts_are_found_with_the_tools_of_busybox_alone(tmp_path: Path, busybox_path: Path):
    machine = Machine(tmp_path, ["busybox", "sh"])
    done = subprocess.run(
        [str(busybox_path / "sh"), "-c", '. "$1"; find_facts; printf "%s %s" "$sysname" "$bits"', "sh", str(FACTS)],
        env={"PATH": str(busybox_path)}, stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=30,
    )  # fmt: skip
    assert (done.stdout, done.stderr, machine.facts()[0]) == (b"linux 64", b"", "linux")


@pytest.mark.parametrize("how", ["exit 1", "kill -9 $$", ":"])
def test_a_machine_that_cannot_be_asked_matches_nothing(machine, how):
    """D10: no answer of `uname` is not "no contradiction"."""
    machine.program("uname", how)
    call = 'found=$(contradictions "$2" "$1" 2>/dev/null) && echo "matches: $found" || echo "no answer: $found"'
    assert machine.run(call, "sysname:linux/bits:64") == "no answer: \n"
    assert machine.run('find_facts "$1" 2>/dev/null || echo failed') == "failed\n"
