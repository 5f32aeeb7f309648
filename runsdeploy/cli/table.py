"""The table of commands, as the program and the invoke collection offer them.

Nothing of a command is imported here: the table names its function.
"""

from __future__ import annotations

from msgspec.structs import replace

from runsdeploy.cli.flags import (
    ACCEPT_NEW,
    COMMON,
    EXECUTION,
    FORMAT,
    HOST,
    LOCAL,
    NO_VERIFY,
    PARALLEL,
    PATIENCE,
    REACH,
    SELECTION,
    Command,
    Flag,
)

_DRY = ("-n", "--check")
_DIFFERENT = Flag("--exit-code", "exit with 6 if something was never done, or by an older version", default=False)
_FINDINGS = replace(FORMAT, choices=(*FORMAT.choices, "sarif", "github"))

_TREES = (
    Command(
        "init",
        "runsdeploy.commands.init:init",
        "make a tree, or the directories of hosts, with commented examples; existing files stay as they are",
        (
            Flag("dir", "where to make a tree; here if neither it nor a host is given", "", metavar="DIR", apart=True),
            Flag("--host", "make the directory of this host; several as elsewhere", (), metavar="HOST"),
            Flag("--sysinfos", "ask the hosts for their facts, for their sysinfos.conf", default=False),
            LOCAL,
            ACCEPT_NEW,
            *COMMON,
        ),
        ("init", "init infrastructure", "init --host medusa.univ.run", "init --host medusa.univ.run --sysinfos"),
    ),
    Command(
        "new",
        "runsdeploy.commands.new:new",
        "make a script from a commented template",
        (
            Flag("name", "its name, e.g. `web/nginx`", metavar="NAME"),
            Flag("--host", "in this host's directory, not for all hosts", metavar="HOST"),
            *COMMON,
        ),
        ("new web/nginx", "new certificate --host medusa.univ.run"),
    ),
)

_DEPLOYS = (
    Command(
        "deploy",
        "runsdeploy.commands.deploy:deploy",
        "run the recipe of each host on it, once",
        (
            *SELECTION,
            *EXECUTION,
            Flag("--detach", "exit when the first step runs on the target; `attach` shows the rest", default=False),
            *COMMON,
        ),
        ("deploy --host medusa.univ.run", "deploy --host 'web*.univ.run' --script ping --format json"),
    ),
    Command(
        "plan",
        "runsdeploy.commands.plan:plan",
        "show what deploy would do, without connecting",
        (*SELECTION, *COMMON),
        ("plan --host medusa.univ.run", "plan --host medusa.univ.run --set port=8080 --format json"),
    ),
    Command(
        "render",
        "runsdeploy.commands.render:write_plan",
        "write the plan of a host as one bash file that runs there without runsdeploy",
        (
            *SELECTION,
            Flag("--output", "where to write it; to stdout if not given, or `-`", metavar="FILE"),
            Flag("--run-local", "run local steps here, now, and include what they make", default=False),
            NO_VERIFY,
            *COMMON,
        ),
        (
            "render --host medusa.univ.run --output medusa.sh",
            "render --host medusa.univ.run --script web/nginx --set port=8080",
        ),
    ),
    Command(
        "check",
        "runsdeploy.commands.check:check",
        "report errors and warnings of the trees, without a network",
        (
            Flag("--host", "only what these hosts use: a name, pattern or `@group`", (), metavar="HOST"),
            Flag("--strict", "treat warnings as errors", default=False),
            Flag("--static", "execute nothing: CONF sections are read, not run", default=False),
            *(_FINDINGS if flag is FORMAT else flag for flag in COMMON),
        ),
        ("check", "check --strict --format github", "check --static --host medusa.univ.run"),
    ),
)

_HOSTS = (
    Command(
        "status",
        "runsdeploy.commands.status:status",
        "show what hosts have marked as done, and whether the trees have changed since",
        (*REACH, PARALLEL, Flag("--script", "only this script", (), metavar="NAME"), _DIFFERENT, *COMMON),
        ("status --host medusa.univ.run", "status --host '*.univ.run' --script ping --format json"),
    ),
    Command(
        "reset",
        "runsdeploy.commands.reset:reset",
        "remove markers, so that the next deploy runs the scripts again",
        (
            *REACH,
            PARALLEL,
            Flag("--script", "script whose markers to remove", (), metavar="NAME"),
            Flag("--subsystem", "only this subsystem of it", (), metavar="NAME"),
            Flag("--dry-run", "show what would be removed", default=False, aliases=_DRY),
            *COMMON,
        ),
        (
            "reset --host medusa.univ.run --script ping --dry-run",
            "reset --host medusa.univ.run --script web --subsystem conf",
        ),
    ),
    Command(
        "sysinfos",
        "runsdeploy.commands.sysinfos:sysinfos",
        "show the facts of hosts: system, distribution, version, bits",
        (
            HOST,
            Flag("--save", "write them to the host's sysinfos.conf, after showing what changes", default=False),
            Flag("--yes", "replace a sysinfos.conf that differs, without asking", default=False),
            LOCAL,
            ACCEPT_NEW,
            *COMMON,
        ),
        ("sysinfos --host medusa.univ.run", "sysinfos --host medusa.univ.run --save"),
    ),
    Command(
        "attach",
        "runsdeploy.commands.attach:attach",
        "re-attach to a running or unattended session and show its output until it ends",
        (
            *REACH,
            PATIENCE,
            Flag("--all", "from its beginning, not from the last acknowledged byte", default=False),
            *COMMON,
        ),
        ("attach --host medusa.univ.run",),
    ),
    Command(
        "lock",
        "runsdeploy.commands.lock:lock",
        "keep a host for yourself: `add`, `show`, `remove`",
        (
            Flag("action", "`add`, `show` or `remove`", metavar="ACTION", choices=("add", "show", "remove")),
            *REACH,
            Flag("--reason", "shown to others that the lock keeps out", metavar="TEXT", text=True),
            *COMMON,
        ),
        (
            "lock add --host medusa.univ.run --reason 'testing a branch'",
            "lock show --host medusa.univ.run",
            "lock remove --host medusa.univ.run",
        ),
    ),
)

_LISTS = (
    Command(
        "list",
        "runsdeploy.commands.list:list_scripts",
        "list the scripts with their descriptions",
        (Flag("--host", "with the scripts of this host", metavar="HOST"), *COMMON),
        ("list", "list --host medusa.univ.run"),
    ),
    Command(
        "hosts",
        "runsdeploy.commands.hosts:hosts",
        "list the hosts with their recipes, groups and directories",
        (
            Flag("pattern", "which hosts, as with --host: `*.univ.run`, `@web,!web3`; all if none", "", metavar="HOST"),
            *COMMON,
        ),
        ("hosts", "hosts '*.univ.run'", "hosts '@web,!www3.univ.run'"),
    ),
    Command(
        "info",
        "runsdeploy.commands.info:info",
        "show one script in full; with --host also what set each variable, and what was overridden",
        (
            Flag("name", "the script", metavar="SCRIPT"),
            Flag("--host", "with the scripts and variables of this host", metavar="HOST"),
            *COMMON,
        ),
        ("info web/nginx", "info web/nginx --host medusa.univ.run"),
    ),
)

_SETUP = Command(
    "ssh.setup",
    "runsdeploy.commands.ssh_setup:setup",
    "put your public key on hosts that only know your password",
    (
        HOST,
        Flag("--key", "the key, either half of it; else the first that ssh would offer", metavar="FILE"),
        Flag("--for", "user whose login the key opens, by sudo; else the user that is logged in", metavar="USER"),
        Flag(
            "--password-file",
            "file whose first line is the password, `-` for stdin; else the terminal asks for it",
            metavar="FILE",
        ),
        Flag("--dry-run", "look, and show what would be done; asks for no password", default=False, aliases=_DRY),
        PARALLEL,
        ACCEPT_NEW,
        *COMMON,
    ),
    (
        "ssh.setup --host medusa.univ.run",
        "ssh.setup --host alice@medusa.univ.run --for root",
        "ssh.setup --host @web --key ~/.ssh/deploy.pub --password-file password",
    ),
)

_RUNNER = (
    HOST,
    Flag("--directory", "where the job runner is on the host, if not in the usual place", metavar="DIR"),
    Flag("--user", "the service account; needs root, by login or `sudo -n`", metavar="ACCOUNT"),
)
"""flags that say which job runner"""
_ARCHIVE = Flag("archive", "the archive, or `latest`", "", metavar="ARCHIVE")


def _cron(name: str, help_text: str, flags: tuple[Flag, ...], *examples: str) -> Command:
    """Return a command of the installed job runner."""
    return Command(
        f"cron.{name}",
        f"runsdeploy.commands.cron.commands:{name}",
        help_text,
        (*flags, *_RUNNER, *EXECUTION, *COMMON),
        tuple(f"cron.{name} {example}" for example in examples),
    )


_CRON = (
    Command(
        "cron.install",
        "runsdeploy.commands.cron.install:install",
        "install the job runner, its settings and what starts it",
        (
            *_RUNNER,
            Flag("--settings", "settings to ship, JSON", metavar="FILE"),
            Flag("--target-settings", "settings that the host has, instead", metavar="PATH"),
            Flag("--catalogue", "catalogue of jobs, JSON, in place of the job runner's own", metavar="FILE"),
            Flag("--schedule", "when it starts, as in a crontab: `15 2 * * *`, `@daily`", text=True),
            Flag("--scheduler", "what starts it", "crontab", choices=("crontab", "cron.d", "systemd")),
            Flag("--random-delay", "start up to so many seconds later, to keep hosts apart", metavar="SECONDS"),
            *EXECUTION,
            *COMMON,
        ),
        ("cron.install --host medusa.univ.run --settings prod.json --schedule '15 2 * * *' --user jobs",),
    ),
    Command(
        "cron.uninstall",
        "runsdeploy.commands.cron.install:uninstall",
        "remove the job runner; backups stay",
        (*_RUNNER, *EXECUTION, *COMMON),
        ("cron.uninstall --host medusa.univ.run",),
    ),
    Command(
        "cron.build",
        "runsdeploy.commands.cron.install:build_program",
        "write the job runner as one file",
        (Flag("--output", "the file to write", metavar="FILE"), *COMMON),
        ("cron.build --output job-runner.pyz",),
    ),
    _cron(
        "run",
        "run all jobs that are enabled, or one job or stage",
        (Flag("job", "a job or a stage; all if none is given", "", metavar="JOB"),),
        "--host medusa.univ.run",
        "--host medusa.univ.run RUN_SD_CHANGED_AT",
    ),
    _cron("jobs", "list the jobs of the host", (), "--host medusa.univ.run"),
    _cron(
        "status",
        "show how the last runs went",
        (Flag("--max-age", "fail if the last good run is older, e.g. `26h`", metavar="AGE"),),
        "--host medusa.univ.run --max-age 26h",
    ),
    _cron(
        "logs",
        "show the log of a run",
        (Flag("run", "which run; the last if none is given", "", metavar="RUN"),),
        "--host medusa.univ.run",
    ),
    _cron("backups", "list the backups of the host", (), "--host medusa.univ.run"),
    _cron(
        "verify",
        "verify backups",
        (_ARCHIVE, Flag("--all", "all of them", default=False)),
        "--host medusa.univ.run --all",
    ),
    _cron(
        "restore",
        "restore files of a backup; without --yes, show what would change",
        (
            _ARCHIVE,
            Flag("--only", "a path to restore, several by repeating; all if none is given", (), metavar="PATH"),
            Flag("--yes", "do it", default=False),
            Flag("--undo", "undo the last restore", default=False),
            Flag("--as-root", "not as the service account, for files that are not its own", default=False),
            Flag("--continue", "finish a restore that broke off", default=False),
            Flag("--force", "take also a backup that is not good, or lose what was changed since", default=False),
            Flag("--root", "put the files below this directory, for a look or a drill", metavar="DIR"),
            Flag("--backups", "where the backups are, if the settings are gone", metavar="DIR"),
            Flag("--backup-of", "take a backup of this other host", metavar="NAME"),
        ),
        "--host medusa.univ.run latest",
        "--host medusa.univ.run latest --yes",
    ),
)

_COMPLETION = Command(
    "completion",
    "runsdeploy.cli.completion:completion",
    "print what makes a shell complete hosts, groups, scripts and flags",
    (
        Flag("shell", "`bash`, `zsh` or `fish`", metavar="SHELL", choices=("bash", "zsh", "fish")),
        *COMMON,
    ),
    ("completion bash", "completion zsh", "completion fish"),
)

COMMANDS: tuple[Command, ...] = (*_TREES, *_DEPLOYS, *_HOSTS, *_LISTS, _SETUP, *_CRON, _COMPLETION)
"""all commands, in the order of the help"""
