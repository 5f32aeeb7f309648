"""Programs that ask a person unless an option answers, and that option; from their man pages."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from runsdeploy.bash.symbols import Call, unwrapped

_EDITORS = frozenset({"vi", "vim", "nvim", "nano", "emacs", "pico"})
_APT = frozenset({"install", "remove", "purge", "autoremove", "upgrade", "dist-upgrade", "full-upgrade", "build-dep"})
_DNF = frozenset(
    {"install", "remove", "erase", "update", "upgrade", "downgrade", "reinstall", "groupinstall", "autoremove"}
)
_ZYPPER = frozenset({"install", "in", "remove", "rm", "update", "up", "dup", "patch"})
_WHOLE = frozenset({"autoremove", "upgrade", "dist-upgrade", "full-upgrade", "update", "up", "dup", "patch"})
"""commands that need no names of packages"""
_KEYGEN_OTHER = re.compile(r"-[a-zA-Z]*[RlyAFHieBDLQrkKsIYMp]")
"""options with which ssh-keygen makes no key pair"""


def question_of(call: Call) -> tuple[str, str] | None:
    """Return the program of a call that asks a person, and what answers it instead; None if it does not ask."""
    run = unwrapped(call)
    program, arguments = run.name, run.arguments
    check = _CHECKS.get(program)
    # What a variable holds may be the option that answers.
    answer = check([each.text for each in arguments], [each.literal for each in arguments]) if check else ""
    return (program, answer) if answer else None


def _packages(commands: frozenset[str], answered: str, answer: str) -> Callable[[Sequence[str], Sequence[bool]], str]:
    """Return the check of a package manager: `answered` is the pattern of the options that answer."""

    def check(words: Sequence[str], literal: Sequence[bool]) -> str:
        at = next((n for n, word in enumerate(words) if word in commands), None)
        if at is None or any(re.match(answered, word) for word in words):
            return ""
        # `apt-get $options install x`, `apt-get install $options x`; not `apt-get install nginx "$more"`.
        operands = zip(words[at + 1 :], literal[at + 1 :], strict=True)
        named = any(not word.startswith("-") and known for word, known in operands)
        computed = not all(literal[: at + 2])
        whole = words[at] in _WHOLE
        return "" if computed or not (named or whole) else answer

    return check


def _apt(words: Sequence[str], literal: Sequence[bool]) -> str:
    answered = (
        r"-[a-zA-Z]*(?:y|qq|s|d|h)|--(?:yes|assume-yes|assume-no|force-yes|trivial-only|simulate|just-print|recon|no-act"
        r"|dry-run|download-only|help)"
    )
    found = _packages(_APT, answered, "`-y`")(words, literal)
    return "" if any("Assume-Yes" in word for word in words) else found


def _editor(words: Sequence[str], _: Sequence[bool]) -> str:
    batch = any(re.match(r"\+|-[eEsc]|-es|--(?:headless|batch|version|cmd)|-batch", word) for word in words)
    return "" if batch else "`sed -i`, or `uinst` of a file"


def _passwd(words: Sequence[str], _: Sequence[bool]) -> str:
    options = any(word.startswith("-") for word in words)
    return "" if options else "`chpasswd`"


def _keygen(words: Sequence[str], literal: Sequence[bool]) -> str:
    options = [word for word in words if word.startswith("-")]
    if not all(literal):
        # A variable may hold the options.
        options += [] if options else ["-Nf"]
    makes = not any(_KEYGEN_OTHER.match(word) for word in options)
    given = [any(re.match(rf"-q?{letter}", word) for word in options) for letter in "Nf"]
    return "" if not makes or all(given) else "`-N '' -f FILE`"


def _adduser(words: Sequence[str], _: Sequence[bool]) -> str:
    # Of Debian. Other systems have it as another name of `useradd`, which asks nothing and has short options.
    plain = [word for word in words if not word.startswith("-")]
    answered = any(re.match(r"-\w|--(?:disabled|system|group|help|conf)", word) for word in words)
    valued = sum(word in ("--gecos", "--home", "--shell", "--uid", "--ingroup", "--comment") for word in words)
    return "" if answered or len(plain) - valued != 1 else "`--disabled-password --gecos ''`"


def _always(answer: str) -> Callable[[Sequence[str], Sequence[bool]], str]:
    return lambda words, literal: answer if not words or all(literal) else ""


def _visudo(words: Sequence[str], _: Sequence[bool]) -> str:
    checks = any(re.match(r"-\w*[ch]|--check", word) for word in words)
    return "" if checks else "a file in `/etc/sudoers.d`, and `visudo -cf` of it"


def _crontab(words: Sequence[str], _: Sequence[bool]) -> str:
    return "`crontab FILE`" if "-e" in words else ""


def _mysql_secure(words: Sequence[str], _: Sequence[bool]) -> str:
    return (
        ""
        if any(word.startswith(("--use-default", "-D", "--help")) for word in words)
        else "its statements with `mysql`"
    )


_CHECKS: dict[str, Callable[[Sequence[str], Sequence[bool]], str]] = {
    **dict.fromkeys(_EDITORS, _editor),
    **dict.fromkeys(("apt", "apt-get", "aptitude"), _apt),
    **dict.fromkeys(
        ("yum", "dnf"), _packages(_DNF, r"-[a-zA-Z]*[yqh]|--(?:assumeyes|assumeno|downloadonly|help)", "`-y`")
    ),
    "zypper": _packages(
        _ZYPPER, r"-[a-zA-Z]*[nyh]|--(?:non-interactive|no-confirm|dry-run|help)", "`--non-interactive`"
    ),
    "passwd": _passwd,
    "ssh-keygen": _keygen,
    "mysql_secure_installation": _mysql_secure,
    "adduser": _adduser,
    "visudo": _visudo,
    "crontab": _crontab,
}
