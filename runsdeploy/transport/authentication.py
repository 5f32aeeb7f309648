"""Logging in."""

from __future__ import annotations

import logging
from typing import Any

from runsdeploy.errors import Unauthorized, Unreachable
from runsdeploy.transport.paramiko_library import paramiko
from runsdeploy.transport.password import Password, takes_password
from runsdeploy.transport.private_keys import agent_keys, candidates
from runsdeploy.transport.ssh_config import Settings

_log = logging.getLogger(__name__)


def authenticate(
    ssh: paramiko.Transport, settings: Settings, *, password: Password | None = None, only_key: bytes = b""
) -> None:
    """Offer keys until one is accepted, or a password."""
    if password:
        _offer_password(ssh, settings, password)
        return
    tried: list[str] = []
    hints: list[str] = []
    stop: str | None = None
    offered = False
    with agent_keys(settings) as held:
        for candidate in candidates(settings, held):
            if candidate.key and only_key not in (b"", candidate.key.asbytes()):
                continue
            tried.append(candidate.label)
            hints += [candidate.hint] if candidate.hint else []
            if candidate.key is None:
                continue
            offered = True
            stop = _offer(ssh, settings.user, candidate.key)
            if stop is None:
                return
            if stop:
                tried.append(stop)
                break
    told = ", ".join(tried) or "nothing, there is no key to offer"
    message = f"`{settings.name}` accepted no key for user `{settings.user}`; tried: {told}"
    passing = not ssh.is_active()
    methods = () if stop or passing else _methods(ssh, settings.user)
    hint = f"runsdeploy ssh.setup --host {settings.user}@{settings.name}"
    if methods and not takes_password(methods):
        hint = "it takes no password either: whoever may log in there can add your public key"
    raise Unauthorized(
        message, next(iter(hints), hint), host=settings.name, passing=passing, offered=offered, methods=methods
    )


def _methods(ssh: paramiko.Transport, user: str) -> tuple[str, ...]:
    """Ask how one may log in; empty if the host does not say."""
    try:
        ssh.auth_none(user)
    except paramiko.BadAuthenticationType as error:
        return tuple(error.allowed_types)
    except (paramiko.SSHException, OSError, EOFError):
        _log.debug("`none` was not answered by a list of methods")
    return ()


def _offer_password(ssh: paramiko.Transport, settings: Settings, password: Password) -> None:
    """Log in with a password, which is sent once; raises Unauthorized."""
    name, user, secret = settings.name, settings.user, password.secret
    methods = _methods(ssh, user)
    if not takes_password(methods):
        message = f"`{name}` takes no password for user `{user}`, only {', '.join(methods) or 'what it does not say'}"
        raise Unauthorized(message, host=name, offered=False, methods=methods)
    asked: list[str] = []
    refused, further = False, []

    def answer(_title: str, _instructions: str, prompts: list[tuple[str, bool]]) -> list[Any]:
        asked.extend(password.hide(text.encode()).decode() for text, _ in prompts)
        alone = len(asked) == len(prompts) == 1 and not prompts[0][1]  # hidden, and nothing was asked before
        return [secret] if alone else ["" for _ in prompts]

    try:
        if "password" in methods:
            further = ssh.auth_password(user, secret, fallback=False)  # type: ignore[arg-type]
        else:
            further = ssh.auth_interactive(user, answer)
    except (paramiko.SSHException, OSError, EOFError) as error:
        if "imeout" in str(error):
            raise Unreachable(f"`{name}` gave no answer to the password", passing=True) from None
        refused = True
    if refused and len(asked) > 1:
        more = ", ".join(f"`{text.strip()}`" for text in asked)
        raise Unauthorized(f"`{name}` asks user `{user}` for more than a password: {more}", host=name)
    if further:
        raise Unauthorized(f"`{name}` wants {', '.join(further)} besides the password of user `{user}`", host=name)
    if refused:
        hint = "is it the right one, and may this user log in with one?"
        if user == "root":
            hint = f"sshd takes none for root by default; another user can do it: `--host USER@{name} --for root`"
        raise Unauthorized(f"`{name}` did not accept the password of user `{user}`", hint, host=name)


def _offer(ssh: paramiko.Transport, user: str, key: paramiko.PKey) -> str | None:
    """None if the key lets us in; empty to go on with the next; otherwise why there is no next."""
    try:
        further = ssh.auth_publickey(user, key)
    except paramiko.BadAuthenticationType as error:
        return f"the host takes no keys, only {', '.join(error.allowed_types)}"
    except (paramiko.SSHException, OSError, EOFError) as error:
        if "imeout" in str(error):
            return "then the host gave no answer"
        return "" if ssh.is_active() else "then the connection was closed"
    return f"then the host wanted {', '.join(further)} as well" if further else None
