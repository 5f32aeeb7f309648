"""Commands and flags of other tools that operators type from habit, with what they are called here.

They are looked up before resemblance: `-l` resembles nothing, and `--forks` resembles `--force`.
"""

from __future__ import annotations

from collections.abc import Collection

FLAGS = {
    "--host": ("-l", "--limit", "-H", "--hosts", "--target", "--targets", "-t", "--on", "--server"),
    "--parallel": ("-f", "--forks", "-j", "--jobs", "-p", "--concurrency", "--fanout"),
    "--set": ("-e", "--extra-vars", "--extra-var", "--var", "--vars", "--data", "-D", "--define"),
    "--script": ("--tags", "--tag", "--task", "--only", "-o", "--module", "-m"),
    "--dry-run": ("--diff", "--dry", "--noop", "--plan", "--whatif", "--simulate", "-R"),
    "--keep-going": ("--continue", "--ignore-errors"),
    "--ssh-config": ("-F", "--ssh-config-file"),
    "--key": ("--identity", "--private-key"),
    "--format": ("--output", "--json", "--out"),
    "--yes": ("-y", "--assume-yes", "--no-input"),
    "--timeout": ("-T", "--task-timeout"),
    "--verbose": ("-vv", "-vvv", "--debug"),
}
"""flags of other tools, by the flag that they are here (ansible-playbook, pyinfra, fab, pssh, bolt, make)"""

EXPLAINED = {
    ("-u", "--user", "--remote-user", "--login"): "the login is part of the host: `--host USER@HOST`",
    (
        "-b",
        "--become",
        "-K",
        "--ask-become-pass",
        "--sudo",
        "--become-user",
        "--prompt-for-sudo-password",
        "-S",
    ): "a script says it with `conf root`; it uses `sudo -n`, see docs/how-to.md#log-in-as-a-user-other-than-root",
    ("-i", "--inventory"): "hosts are directories, groups are files `groups/NAME`: `--host @NAME`",
    ("-k", "--ask-pass", "--prompt-for-login-password"): "put your key there once: `runsdeploy ssh.setup --host HOST`",
    ("--private-key", "--identity", "--key-file"): "name it in the ssh configuration: `IdentityFile`",
    ("-a", "--all"): "name the hosts: `--host '*'`",
    ("-q", "--quiet"): "results go to stdout, messages to stderr: `2>/dev/null`",
}
"""flags of other tools that are none here, with what takes their place"""

COMMANDS = {
    "check": ("lint", "validate", "verify", "test", "syntax-check"),
    "deploy": ("apply", "run-playbook", "playbook", "play", "provision", "converge", "push", "up", "sync", "install"),
    "plan": ("preview", "diff", "show", "dry-run"),
    "hosts": ("inventory", "nodes", "servers", "list-hosts"),
    "list": ("ls", "scripts", "list-scripts"),
    "info": ("describe", "inspect", "doc", "explain"),
    "sysinfos": ("facts", "fact", "gather"),
    "reset": ("undo", "unmark", "taint", "untaint"),
    "attach": ("follow", "tail", "resume", "reattach", "watch"),
    "lock remove": ("unlock", "release"),
    "new": ("create", "generate", "scaffold"),
    "ssh.setup": ("ssh-copy-id", "bootstrap", "authorize"),
    "cron.install": ("schedule",),
    "cron.backups": ("backups", "backup"),
    "cron.restore": ("restore",),
    "cron.logs": ("logs", "log"),
}
"""commands of other tools, by the command that they are here"""

_ONE_OFF = "put the command into a script: `runsdeploy new NAME`, then `runsdeploy deploy --host HOST --script NAME`"


def flag_hint(word: str, flags: Collection[str]) -> str:
    """Return a hint for a flag of another tool, if the command has that flag under another name; else empty."""
    # A value may stand right behind a short flag: `-j5`.
    name = word if word.startswith("--") else word[:2]
    for here, elsewhere in FLAGS.items():
        if here in flags and (word in elsewhere or name in elsewhere):
            return f"did you mean `{here}`?"
    return next((hint for names, hint in EXPLAINED.items() if name in names), "")


def command_hint(word: str) -> str:
    """Return a hint for a command of another tool; empty if none is known."""
    if word in ("exec", "run", "shell", "command", "adhoc"):
        return _ONE_OFF
    if word in ("cron", "ssh"):
        # The nearest name would be `cron.run`, which runs all jobs.
        return f"its commands are one word with a dot, `{word}.…`, see `runsdeploy --help`"
    return next((f"did you mean `{here}`?" for here, elsewhere in COMMANDS.items() if word in elsewhere), "")
