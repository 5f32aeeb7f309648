"""Rule for values that look like secrets: those of a recipe or CONF stand in the repository, and `plan` prints them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from runsdeploy.check.finding import Finding, warning
from runsdeploy.check.model import TreeModel
from runsdeploy.check.symbols import ConfSymbols, Declaration
from runsdeploy.errors import Position

_NAME = re.compile(
    r"(?:.*_)?(?:[a-z]*passw(?:or)?d|passphrase|pwd?|pass|secret|[a-z]*token|api_?key|private_?key|secret_?key|access_?key"
    r"|auth_?key|credentials?)\d*\Z",
    re.IGNORECASE,
)
_HARMLESS = re.compile(
    r"(?:[/~.].*|.*/.*\.\w+|<.*>|\*+|[xX]+|\$.*|\{\{.*|yes|no|y|n|on|off|true|false|none|null|ask|auto|prompt|random"
    r"|generate|disabled|enabled|optional|required|default|\d{1,2}|[a-z]+:.*)\Z",
    re.IGNORECASE | re.DOTALL,
)
"""values that are no secret: paths, switches, places to fill in, and sources such as `env:NAME`"""
_DEFAULT = re.compile(r"\$\{\w+:?[-=]([^}$`\"']+)\}")
_HINT = 'keep it out of the tree, e.g. `var {}="$(pass show NAME)"`; values are shown by `plan`'


def _literal_secrets(model: TreeModel) -> Iterator[Finding]:
    """A variable that looks like a secret has its value in a recipe, a `runs.conf` or a CONF section."""
    for recipe in model.recipes:
        for each in (operation for entry in recipe.entries for operation in entry.operations):
            if each.kind != "-=" and any(
                _is_secret(each.name, value.decode("utf-8", "replace")) for value in each.values
            ):
                yield _told(each.name, each.position)
    for conf in (*(symbols.conf for symbols in model.checked), *model.configurations):
        for declared in conf.declared:
            if declared.kind == "var" and _is_secret(declared.name, _value(conf, declared)):
                yield _told(declared.name, declared.position)


def _is_secret(name: str, value: str) -> bool:
    return bool(_NAME.match(name) and value.strip()) and not _HARMLESS.match(value)


def _told(name: str, at: Position) -> Finding:
    return warning("literal-secret", at, f"`{name}` looks like a secret, and its value stands here", _HINT.format(name))


def _value(conf: ConfSymbols, declared: Declaration) -> str:
    """Return the value of a declaration: as it is written, or the default of `${name:-value}`; else nothing."""
    word = declared.word
    if word.literal:
        return re.sub(r"^\w+(?:\+=|=|[ \t]+|\Z)", "", word.text) if "=" in word.text else _words(conf, declared)
    spelled = conf.text[word.start : word.end].decode("utf-8", "replace")
    default = _DEFAULT.search(spelled)
    return default[1] if default else ""


def _words(conf: ConfSymbols, declared: Declaration) -> str:
    """Return the values of `var name value…`, quotes removed."""
    spelled = conf.text[declared.word.start : declared.word.end].decode("utf-8", "replace")
    return spelled.removeprefix(declared.name).strip(" \t\"'")


RULES = (_literal_secrets,)
