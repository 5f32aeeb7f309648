"""`ssh.setup`: put the operator's public key on hosts that accept only a password.

First every host is looked at, with the keys there are; nothing is changed. Only then a password is asked for,
once, if one is needed; and the first host that accepts it is waited for before the others are shown it: a
mistyped one must not lock accounts on all of them.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, Literal, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from runsdeploy import exit_status
from runsdeploy.commands.arguments import Arguments
from runsdeploy.commands.cron.builtin_tree import gather, named_hosts
from runsdeploy.commands.inputs import show_wait
from runsdeploy.errors import HostError, InputError, Lost, Problem, Unauthorized, Unreachable
from runsdeploy.output import json
from runsdeploy.output.terminal import Writer, printable
from runsdeploy.session.authorized_keys import KeyRequest, KeyResponse, WrongPassword, run_setup
from runsdeploy.transport import known_hosts, password
from runsdeploy.transport.address import USER
from runsdeploy.transport.password import Password
from runsdeploy.transport.public_key import PublicKey, find
from runsdeploy.tree.trees import Host

_TEXTS = {
    "added": "key added",
    "present": "key was there",
    "would-add": "key would be added",
    "maybe": "perhaps the key would be added",
}
"""outcomes that are not failures, with their text"""

_Made = TypeVar("_Made")


class Account(Struct, frozen=True):
    """Where a key is to go."""

    host: Host
    user: str
    """whose authorized_keys; empty for the login's"""
    key: PublicKey
    login: known_hosts.Destination
    """how the host is logged in to now"""
    own: known_hosts.Destination
    """how it will be with the key"""
    locked: Literal["", "login", "sudo"] = ""
    """what needs a password: the login, or sudo; empty for neither"""


class Result(Struct, frozen=True):
    """The outcome for one account."""

    host: Host
    outcome: str
    """one of _TEXTS, or `unreachable`, `refused`, `lost`, `skipped`"""
    key: PublicKey | None = None
    message: str = ""
    hint: str = ""
    wrong: bool = False
    """whether the password was not accepted"""


def setup(arguments: Arguments) -> int:
    """Put the operator's public key on hosts; return the exit status."""
    problems: list[Problem] = []
    hosts = gather(problems, named_hosts, arguments) or []
    secret = gather(problems, password.read, arguments.password_file) if arguments.password_file else None
    results, accounts = _accounts(arguments, hosts, problems)
    if problems:
        raise InputError(problems)
    show = functools.partial(_show, arguments)
    results = [show(each) for each in results]
    looked = list(_each(lambda account: _probe(arguments, account), accounts, arguments.parallel))
    results += [show(each) for each in looked if isinstance(each, Result)]
    absent = [each for each in looked if isinstance(each, Account)]
    locked = [each for each in absent if each.locked]
    if arguments.dry_run:
        results += [show(_predicted(each)) for each in absent]
    else:
        secret = (secret or _ask(arguments, locked)) if locked else None
        opened = [each for each in absent if not each.locked]
        results += map(show, _each(lambda account: _add(arguments, account), opened, arguments.parallel))
        results += map(show, _with_password(arguments, secret, locked) if secret else ())
    status = exit_status.OK if all(each.outcome in _TEXTS for each in results) else exit_status.UNUSABLE
    if arguments.format != "text":
        order = [host.name for host in hosts]
        results.sort(key=lambda each: order.index(each.host.name))
        json.write(_document(arguments, status, results))
    return status


def _accounts(
    arguments: Arguments, hosts: Sequence[Host], problems: list[Problem]
) -> tuple[list[Result], list[Account]]:
    """Read the ssh configuration and the keys, without connecting; problems with keys are added to `problems`."""
    user = arguments.values["for"] or ""
    if user and not USER.fullmatch(user):
        problems.append(Problem(None, f"`{user}` is not a user name"))
        return [], []
    results: list[Result] = []
    accounts: list[Account] = []
    for host in hosts:
        try:
            login = own = known_hosts.look_up(host.address, arguments.ssh_config)
            if user:
                own = known_hosts.look_up(Host(host.name, user).address, arguments.ssh_config)
        except HostError as error:
            results.append(_failed(host, error))
            continue
        key = gather(problems, find, arguments.key, own[0])
        if key:
            accounts.append(Account(host, user, key, login, own))
    return results, accounts


def _probe(arguments: Arguments, account: Account) -> Result | Account:
    """Log in with the existing keys; return the account if the new key is absent, or may be."""
    try:
        answer = _asked(arguments, account, "look", None)
    except Unauthorized as error:
        # A jump host may have refused, and the password is not for it.
        if error.host != account.login[0].name or (error.methods and not password.takes_password(error.methods)):
            return _failed(account.host, error)
        return replace(account, locked="login")
    except HostError as error:
        return _failed(account.host, error)
    if answer.result == "password":
        return replace(account, locked="sudo")
    return account if answer.result == "absent" else _verified(arguments, account, answer)


def _add(arguments: Arguments, account: Account, secret: Password | None = None) -> Result:
    """Add the key, and log in with it."""
    try:
        return _verified(arguments, account, _asked(arguments, account, "add", secret))
    except HostError as error:
        return _failed(account.host, error)


def _asked(
    arguments: Arguments, account: Account, mode: Literal["look", "add"], secret: Password | None
) -> KeyResponse:
    for_login = secret if account.locked == "login" else None
    for_sudo = secret if account.user else None
    with _connected(arguments, account.host, account.login, password=for_login) as connection:
        return run_setup(connection, KeyRequest(mode, account.host.name, account.user, account.key, for_sudo))


def _connected(arguments: Arguments, host: Host, destination: known_hosts.Destination, **more: Any) -> Any:
    """Connect, for the length of a `with`; `more` are options of that."""
    from runsdeploy.transport.ssh import connecting  # noqa: PLC0415 - only commands that connect load paramiko

    options = connecting.Options(
        ssh_config=arguments.ssh_config, accept_new=arguments.accept_new, notify=show_wait(f"{host.name}: "), **more
    )
    return closing(connecting.connect(host.address, options, destination))


def _verified(arguments: Arguments, account: Account, answer: KeyResponse) -> Result:
    """Log in with the new key alone, and run a command."""
    key, (settings, entries) = account.key, account.own
    alone = replace(settings, identities=(key.private,) if key.private else (), identities_only=False)
    stands = f"the key stands in `{answer.file}`, but"
    try:
        with _connected(arguments, account.host, (alone, entries), only_key=key.blob) as connection:
            run_setup(connection, KeyRequest("hello", account.host.name))
    except Unauthorized as error:
        if not error.offered:
            return Result(account.host, answer.result, key, f"login with it was not tried: {error.message}")
        why = f"sshd does not accept it for user `{settings.user}`"
        hint = f"as root there: `sshd -T -C user={settings.user} | grep -iE 'authorizedkeys|permitroot|pubkey|allow'`"
        return Result(account.host, "refused", key, f"{stands} {why}", hint)
    except HostError as error:
        failed = _failed(account.host, error)
        return replace(failed, key=key, message=f"{stands} {failed.message}")
    named = not key.private or Path(key.private).absolute() in map(Path, settings.identities)
    hint = (
        "" if named else f"deploys offer it if the agent has it, or ssh's configuration: `IdentityFile {key.private}`"
    )
    return Result(account.host, answer.result, key, "login with it works", hint)


def _with_password(arguments: Arguments, secret: Password, accounts: Sequence[Account]) -> Iterator[Result]:
    """Try the password on one host after the other until one accepts it, then on the rest at once."""
    waiting = list(accounts)
    while waiting:
        result = _add(arguments, waiting.pop(0), secret)
        yield result
        if result.wrong:
            message = f"the password was not tried, because `{result.host.name}` did not accept it"
            yield from (Result(each.host, "skipped", each.key, message) for each in waiting)
            return
        if result.outcome in _TEXTS:
            break
    yield from _each(lambda account: _add(arguments, account, secret), waiting, arguments.parallel)


def _each(work: Callable[[Account], _Made], accounts: Iterable[Account], parallel: int) -> Iterator[_Made]:
    """Do the work in threads; yield what it makes, in order."""
    pool = ThreadPoolExecutor(parallel)
    try:
        yield from pool.map(work, accounts)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # an interrupt must not wait for hosts


def _ask(arguments: Arguments, accounts: Sequence[Account]) -> Password:
    """Ask for the password of all, once; raises InputError without a terminal."""
    first = f"{accounts[0].login[0].user}@{accounts[0].host.name}"
    more = f" (and {len(accounts) - 1} more)" if len(accounts) > 1 else ""
    if arguments.format != "text":
        why = f"with `--format {arguments.format}` nothing is asked"
    elif password.can_ask():
        return password.ask(f"password for {first}{more}: ")
    else:
        why = "there is no terminal to ask on"
    needed = f"the password of `{first}`{more} is needed, and {why}"
    raise InputError([Problem(None, needed, "give it in a file: `--password-file FILE`, or `-` for stdin")])


def _predicted(account: Account) -> Result:
    if not account.locked:
        return Result(account.host, "would-add", account.key)
    why = "sudo asks for a password" if account.locked == "sudo" else "it accepts none of your keys"
    return Result(account.host, "maybe", account.key, f"{why}, and a dry run asks for none")


def _failed(host: Host, error: HostError) -> Result:
    outcome = "unreachable" if isinstance(error, Unreachable) else "lost" if isinstance(error, Lost) else "refused"
    wrong = isinstance(error, WrongPassword) or (isinstance(error, Unauthorized) and error.offered)
    return Result(host, outcome, None, error.message, error.hint, wrong)


def _show(arguments: Arguments, result: Result) -> Result:
    name = result.host.name
    if result.outcome not in _TEXTS:
        problem = Problem(None, result.message, result.hint)
        Writer(sys.stderr).line(printable(f"{name}: {problem}"))
    elif arguments.format == "text":
        said = ", ".join(filter(None, (_TEXTS[result.outcome], result.message)))
        Writer(sys.stdout).line(printable(f"{name}: {said}"))
        if result.hint:
            Writer(sys.stderr).line(printable(f"{name}: {result.hint}"))
    return result


def _document(arguments: Arguments, status: int, results: Sequence[Result]) -> dict[str, Any]:
    hosts = [
        {
            "host": each.host.name,
            "outcome": each.outcome,
            "key": str(each.key) if each.key else None,
            "message": each.message,
            "hint": each.hint,
        }
        for each in results
    ]
    dry = {"dry_run": True} if arguments.dry_run else {}
    return {"schema": json.SCHEMA, "exit_status": status, **dry, "hosts": hosts}
