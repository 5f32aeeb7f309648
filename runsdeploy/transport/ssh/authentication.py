"""Authentication: offer keys one after the other, or a password once."""

from __future__ import annotations

import logging
from typing import Any

from runsdeploy.errors import Unauthorized, Unreachable
from runsdeploy.transport.password import Password, takes_password
from runsdeploy.transport.ssh.paramiko_library import paramiko
from runsdeploy.transport.ssh.private_keys import agent_keys, candidates
from runsdeploy.transport.ssh_config import Settings

_log = logging.getLogger(__name__)


def authenticate(
    ssh: paramiko.Transport, settings: Settings, *, password: Password | None = None, only_key: bytes = b""
) -> None:
    """Log in with the password if there is one, else with the first key that the host accepts.

    `only_key` is the public half of the one key to offer; empty for all keys. An attempt is never repeated, because it
    counts towards the host's limit. Raises Unauthorized, or Unreachable if the host does not answer.
    """
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
            stop = _offer_key(ssh, settings.user, candidate.key)
            if stop is None:
                return
            if stop:
                tried.append(stop)
                break
    listed = ", ".join(tried) or "nothing, there is no key to offer"
    message = f"`{settings.name}` accepted no key for user `{settings.user}`; tried: {listed}"
    passing = not ssh.is_active()
    methods = () if stop or passing else _methods(ssh, settings.user)
    hint = f"runsdeploy ssh.setup --host {settings.user}@{settings.name}"
    if methods and not takes_password(methods):
        hint = "it accepts no password either: a user who can log in there must add your public key"
    raise Unauthorized(
        message, next(iter(hints), hint), host=settings.name, passing=passing, offered=offered, methods=methods
    )


def _offer_key(ssh: paramiko.Transport, user: str, key: paramiko.PKey) -> str | None:
    """Offer a key: None if the host accepts it, empty to try the next one, else the reason to stop."""
    try:
        further = ssh.auth_publickey(user, key)
    except paramiko.BadAuthenticationType as error:
        return f"the host accepts no keys, only {', '.join(error.allowed_types)}"
    except (paramiko.SSHException, OSError, EOFError) as error:
        if "imeout" in str(error):
            return "then the host did not answer"
        return "" if ssh.is_active() else "then the connection was closed"
    return f"then the host required {', '.join(further)} as well" if further else None


def _methods(ssh: paramiko.Transport, user: str) -> tuple[str, ...]:
    """Ask the host for its authentication methods (`none`, RFC 4252, 5.2); empty if it does not list them."""
    try:
        ssh.auth_none(user)
    except paramiko.BadAuthenticationType as error:
        return tuple(error.allowed_types)
    except (paramiko.SSHException, OSError, EOFError):
        _log.debug("the host answered `none` without a list of methods")
    return ()


def _offer_password(ssh: paramiko.Transport, settings: Settings, password: Password) -> None:
    """Log in with a password, which is sent once; raises Unauthorized, or Unreachable after a timeout."""
    name, user, secret = settings.name, settings.user, password.secret
    methods = _methods(ssh, user)
    if not takes_password(methods):
        others = f"only {', '.join(methods)}" if methods else "and does not list what it accepts"
        raise Unauthorized(
            f"`{name}` accepts no password for user `{user}`, {others}", host=name, offered=False, methods=methods
        )
    asked: list[str] = []
    refused, further = False, []

    def answer(_title: str, _instructions: str, prompts: list[tuple[str, bool]]) -> list[Any]:
        asked.extend(password.hide(text.encode()).decode() for text, _ in prompts)
        # Send the password only to the first prompt, if it is the only one and does not echo.
        alone = len(asked) == len(prompts) == 1 and not prompts[0][1]
        return [secret] if alone else ["" for _ in prompts]

    try:
        if "password" in methods:
            further = ssh.auth_password(user, secret, fallback=False)  # type: ignore[arg-type]
        else:
            further = ssh.auth_interactive(user, answer)
    except (paramiko.SSHException, OSError, EOFError) as error:
        if "imeout" in str(error):
            raise Unreachable(f"`{name}` sent no answer to the password", passing=True) from None
        refused = True
    if refused and len(asked) > 1:
        more = ", ".join(f"`{text.strip()}`" for text in asked)
        raise Unauthorized(f"`{name}` asks user `{user}` for more than a password: {more}", host=name)
    if further:
        raise Unauthorized(f"`{name}` requires {', '.join(further)} besides the password of user `{user}`", host=name)
    if refused:
        hint = "check the password, and whether sshd accepts passwords from this user"
        if user == "root":
            hint = f"sshd accepts no password for root by default; use another login: `--host USER@{name} --for root`"
        raise Unauthorized(f"`{name}` did not accept the password of user `{user}`", hint, host=name)
