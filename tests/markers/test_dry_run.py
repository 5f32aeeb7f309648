"""Dry runs: a deploy does what the dry run before it predicted, and a dry run changes nothing."""

from __future__ import annotations

import os
import random

import pytest

from tests.trees import contents, plant, remove, script, wait_until

HOST = "medusa.univ.run"
CASES = int(os.environ.get("RUNSDEPLOY_DRY_RUN_CASES", "30"))
SEED = os.environ.get("RUNSDEPLOY_DRY_RUN_SEED")


def compare(operator, host, tree, *more):
    """Dry-run, then deploy; return each script with its forecast and its outcome. The dry run may change nothing."""
    # A session leaves its target a moment after its controller. Then its files change, and `contents` fails if a
    # directory disappears while it is read.
    segments = [*host.state.glob("sessions/*/segment*"), *operator.state.glob("hosts/*/sessions/*/segment*")]
    wait_until(lambda: not any([*each.glob("attached.*")] for each in segments))
    wait_until(lambda: all((each / "finished").exists() for each in segments))
    before = contents(host.directory), contents(operator.directory)
    dry = operator.deploy(tree, "--dry-run", *more)
    assert dry.status == dry.document["exit_status"] == 0, dry.talk
    assert dry.document["dry_run"] is True
    after = contents(host.directory), contents(operator.directory)
    for one, other in zip(before, after, strict=True):
        one.pop(b"sshd.log", None), other.pop(b"sshd.log", None)
        assert one == other
    said = [(step["script"], step["outcome"]) for step in dry.document["hosts"][0]["steps"]]
    done = operator.deploy(tree, "--keep-going", *more)
    assert done.document["hosts"][0]["plan"] == dry.document["hosts"][0]["digest"]
    return [(*one, outcome) for one, (_, outcome) in zip(said, done.outcomes, strict=True)]


def came_true(forecast, outcome):
    """Return whether a step did what its forecast said."""
    return {
        "would-run": outcome in ("ok", "failed", "killed"),
        "already-done": outcome == "already-done",
        "maybe": True,
    }[forecast]


BODIES = [
    "echo always",
    "shouldrun || exit\nsetdone",
    "shouldrun || exit 0\n{setdone}",
    "shouldrun $x || exit\nsetdone $x",
    'shouldrun "$x" "$y" || exit\nsetdone "$x" "$y"',
    "shouldrun conf $y || exit\nsetdone conf $y",
    "# shouldrun || exit\nsetdone",
    "echo 'shouldrun || exit' >/dev/null\nsetdone",
    "if shouldrun; then\n{setdone}\nfi",
    "if shouldrun one; then {setdone} one; fi\nif shouldrun two $y; then setdone two $y; fi",
    "shouldrun one && { setdone one; }\nshouldrun two && { setdone two; }\n:",
    "shouldrun || { echo before; exit; }\nsetdone",
    "x=other\nshouldrun $x || exit\nsetdone $x",
    "read -r x <<<other\nshouldrun $x || exit\nsetdone $x",
    "echo work\nshouldrun || exit\nsetdone",
    "false || exit\nshouldrun || exit\nsetdone",
    "true && exit 0\nshouldrun || exit\nsetdone",
    'f() { shouldrun "$1"; }\nf one || exit\nsetdone one',
    "resetdone\nshouldrun || exit\nsetdone",
    "shouldrun one || exit\nresetdone one",
    "setdone one\nshouldrun one || exit",
    "exit 0\nshouldrun || exit",
    "exit 3\nshouldrun || exit",
    "shouldrun || true\nsetdone",
    'shouldrun || exit\neval "setdone"',
    'shouldrun one || exit\nlib=$PWD/none; . "$lib"\nsetdone one',
    'shouldrun one && { eval ":"; }\neval "setdone one"; exit 0',
    "shouldrun || exit\nselect z in 1 2; do :; done\nsetdone",
    'shouldrun one || exit\n(eval "exit 3")\nsetdone one',
    "shouldrun || echo again\nsetdone",
    "shouldrun && setdone; exit 0",
    "! shouldrun && exit\nsetdone",
    "if ! shouldrun; then exit; fi\nsetdone",
    "shouldrun one || shouldrun two || exit\n{setdone} one\nsetdone two",
    "cat <<END\nshouldrun || exit\nEND\nshouldrun h || exit\nsetdone h",
    "urequire DEFAULTS\netitle title\nshouldrun || exit\nsetdone",
    "shouldrun 'a b' \"v $y\" || exit\nsetdone 'a b' \"v $y\"",
    'shouldrun "$RUNS_SCRIPT" "$RUNS_DIGEST" || exit\nsetdone "$RUNS_SCRIPT" "$RUNS_DIGEST"',
    "for each in a b; do shouldrun $each || continue; setdone $each; done",
    "while shouldrun loop; do setdone loop; done",
    "case $x in 1) shouldrun || exit;; esac\nsetdone",
    "(shouldrun || exit)\nsetdone",
    "shouldrun || return 0 2>/dev/null || exit 0\nsetdone",
    'unset y\nshouldrun conf "${y-none}" || exit\nsetdone conf "${y-none}"',
    "PATH=/nowhere shouldrun || exit\nsetdone",
    "\tshouldrun || exit\n\tsetdone",
    "shouldrun ||\n    exit\nsetdone",
    "shouldrun \\\n    one || exit\nsetdone one",
    "shouldrun || exit # guard\nsetdone",
    "shouldrun || exit; setdone",
    "set -euo pipefail\nshouldrun || exit\nsetdone",
    "a=b; shouldrun $a || exit\nsetdone $a",
    'einfo "$(echo x)"\nshouldrun || exit\nsetdone',
    "shouldrun '' || exit\nsetdone ''",
    "shouldrun $nothing || exit\nsetdone $nothing",
    "shouldrun ~ || exit\nsetdone ~",
    "shouldrun .hidden || exit\nsetdone .hidden",
    "shouldrun $'tab\\t' || exit\nsetdone $'tab\\t'",
    "shouldrun caf\u00e9 || exit\nsetdone caf\u00e9",
    "if shouldrun; then setdone; else false; fi",
    "if [[ $x == 1 ]]; then shouldrun || exit; fi\nsetdone",
    "if [[ $x == 1 ]]; then\nshouldrun || exit\nfi\nsetdone",
    "if false; then\nshouldrun || exit\nfi\necho ran",
    "f() {\nshouldrun || exit\n}\nsetdone",
    "shouldrun || exit\nshouldrun two || exit\nsetdone two\nsetdone",
    "shouldrun one >/dev/null || exit\nsetdone one",
    "{ shouldrun one; } || exit\nsetdone one",
    "x=$(shouldrun one && echo yes)\nsetdone one",
]


def world(rng):
    """Return the files of a random tree: scripts, and a recipe that may call them twice."""
    files = {
        "runs.conf": "var y=0\n",
        "scripts/data": str(rng.randrange(3)),
        "lib/guard": "shouldrun lib || exit\nsetdone lib\n",
    }
    names = [f"s{n}" for n in range(rng.randrange(4, 9))]
    for name in names:
        conf = rng.choice(
            [
                "",
                "",
                "conf local",
                "conf once",
                "conf onchange",
                "conf onchange; ref f=data",
                "conf root",
                "conf strict",
                "conf local once",
                "var y=1",
            ]
        )
        if rng.random() < 0.1:
            conf += (
                f"\nafter {rng.choice(names[: names.index(name)])}"
                if name not in (names[0], names[-1]) and rng.random() < 0.5  # never a cycle
                else f"\nafter -r {names[-1]} x=2\n" * (name != names[-1])
            )
        body = rng.choice(BODIES)
        # A step that sets its marker may fail, and one that succeeds may set none.
        body = body.replace("{setdone}", rng.choice(["setdone", "setdone", "true", "false"]))
        files[f"scripts/{name}"] = script(conf, body)
        if rng.random() < 0.08:
            files[f"scripts/{name}"] = script(conf, f"urequire guard\n{body}")
    recipe = [f"{rng.choice(names)} x={rng.randrange(3)} y={rng.randrange(2)}\n" for _ in range(rng.randrange(3, 9))]
    files["hosts/medusa/default"] = "".join(recipe)
    return files


@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", range(3))
def test_what_is_foretold_happens_over_random_trees_and_markers(part, operator, target, tmp_path):
    """Random trees, deployed three times. RUNSDEPLOY_DRY_RUN_SEED repeats one, RUNSDEPLOY_DRY_RUN_CASES makes more."""
    seeds = [int(SEED)] if SEED else [random.randrange(1 << 32) for _ in range(CASES // 9 + (part < CASES // 3 % 3))]
    broken = []
    for seed in seeds:
        remove(target.state)
        remove(operator.state)
        rng = random.Random(seed)
        tree = plant(tmp_path / f"tree{seed}", world(rng))
        for turn in range(3):
            sets = ["--set", f"y={rng.randrange(2)}"] if turn == 2 and rng.random() < 0.7 else []
            for name, said, happened in compare(operator, target, tree, *sets):
                if not came_true(said, happened):
                    text = (tree / "scripts" / name).read_text()
                    broken.append(f"seed {seed}, turn {turn}: {name} {said}, then {happened}\n{text}")
    assert not broken, "\n".join(broken)


def test_each_idiom_is_foretold_when_it_is_new_and_when_it_is_done(operator, target, tmp_path):
    """Each body as a script of its own, deployed twice: a wrong forecast is reported with its body."""
    files = {f"scripts/s{n}": script("", body.replace("{setdone}", "setdone")) for n, body in enumerate(BODIES)}
    files["hosts/medusa/default"] = "".join(f"s{n} x=1 y=2\n" for n in range(len(BODIES)))
    tree = plant(tmp_path / "tree", files)
    broken = [
        f"turn {turn}: {said}, then {happened}: {files[f'scripts/{name}']!r}"
        for turn in range(2)
        for name, said, happened in compare(operator, target, tree)
        if not came_true(said, happened)
    ]
    assert not broken, "\n".join(broken)


def test_the_plain_idioms_are_foretold_without_a_maybe(operator, target, tmp_path):
    bodies = [
        "echo always",
        "shouldrun || exit\nsetdone",
        "shouldrun || exit 0\nsetdone",
        "if shouldrun; then\nsetdone\nfi",
        "shouldrun && {\nsetdone\n}",
        'shouldrun conf "$x" || exit\nsetdone conf "$x"',
    ]
    files = {f"scripts/s{n}": script("", body) for n, body in enumerate(bodies)}
    files |= {
        "scripts/once": script("conf once"),
        "scripts/change": script("conf onchange; ref f=data"),
        "scripts/data": "1",
        "scripts/near": script("conf local", bodies[1]),
    }
    files["hosts/medusa/default"] = "".join(
        f"{name.removeprefix('scripts/')} x=1\n" for name in files if name != "scripts/data"
    )
    tree = plant(tmp_path / "tree", files)
    count = len(bodies) + 3
    assert [said for _, said, _ in compare(operator, target, tree)] == ["would-run"] * count
    assert [said for _, said, _ in compare(operator, target, tree)] == ["would-run"] + ["already-done"] * (count - 1)
    plant(tree, {"scripts/data": "2"})
    said = {name: word for name, word, _ in compare(operator, target, tree, "--set", "x=2")}
    assert said["change"] == "would-run"
    assert said["s5"] == "would-run"
    assert said["once"] == "already-done"


@pytest.mark.parametrize("form", ["text", "json"])
def test_the_status_tells_only_if_asked_for(form, operator, tmp_path):
    tree = plant(tmp_path / "tree", {"scripts/a": script("conf once"), "hosts/medusa/default": "a\n"})

    def status(*more):
        return operator.run(*operator.deploy_arguments(tree, "--dry-run", *more, form=form)).status

    assert (status(), status("--exit-code")) == (0, 6)
    assert operator.deploy(tree).status == 0
    assert (status(), status("--exit-code")) == (0, 0)
    assert status("--exit-code", "--script", "nope") == 2


def test_check_and_n_are_dry_runs_too(operator, target, tmp_path):
    tree = plant(tmp_path / "tree", {"scripts/a": script("", "touch ~/ran"), "hosts/medusa/default": "a\n"})
    for flag in ("--dry-run", "--check", "-n"):
        assert operator.deploy(tree, flag).document["dry_run"] is True
    assert not (target.home / "ran").exists()
    assert not target.state.exists()


def test_a_host_that_is_not_there_cannot_be_foretold(operator, sshd, tmp_path):
    host = sshd(HOST)
    operator.ssh_config = host.ssh_config
    host.stop()
    tree = plant(tmp_path / "tree", {"scripts/a": script(), "hosts/medusa/default": "a\n"})
    dry = operator.deploy(tree, "--dry-run")
    assert dry.status == dry.document["exit_status"] == 3
