"""Does one act of archives or restores, to be killed in it, or on a Python other than the tests' own.

    python -I -S drive.py REPOSITORY write FOLDER TREE IDENTITY | restore ARCHIVE ROOT FOLDER | continue_restore FOLDER
        | undo FOLDER | hostile FOLDER ROOT

Looks for `/begin` once it is about to act: what follows in a trace is the act.
"""

# ruff: noqa: PTH102, PTH112, PTH118, PTH208, PTH211, UP032  (Python 3.6; paths are bytes in disguise)
import json
import os
import resource
import sys

sys.path.insert(0, sys.argv[1])
from runsdeploy.jobs.archive import archive
from runsdeploy.jobs.errors import Fault
from runsdeploy.jobs.restore import restore
from tests.jobs.backup import backup, state


def begin():
    os.path.lexists("/begin")


def write(folder, tree, identity):
    begin()
    backup(folder, tree, identity=identity, sequence=9)


def put_back(path, root, folder):
    plan = restore.make_plan(path, root=root)
    begin()
    restore.restore(plan, folder)


def continue_restore(folder):
    begin()
    restore.continue_restore(folder)


def undo(folder):
    begin()
    restore.undo(folder)


def hostile(folder, above):
    """Try to list, verify and restore every archive, with and without force; print how each ended, by name."""
    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 20, 64 << 20))
    results = {}
    for number, name in enumerate(sorted(os.listdir(folder))):
        path = os.path.join(folder, name)
        if not os.path.isdir(path):
            continue
        (file,) = [each for each in sorted(os.listdir(path)) if each.endswith(".tar.gz")]
        (listed,) = archive.archives(path)
        results[name] = {"kind": listed.kind, "problems": archive.verify(os.path.join(path, file))}
        for force in (False, True):
            root = os.path.join(above, "{}-{}".format(number, "force" if force else "plain"))
            os.mkdir(root)
            os.symlink(os.path.join(above, "..", "outside"), os.path.join(root, "link"))
            os.mkdir(os.path.join(root, "inside"))
            key = "forced" if force else "plain"
            try:
                plan = restore.make_plan(os.path.join(path, file), root=root, any_host=True, force=force)
                results[name][key] = restore.restore(plan, path)
            except Fault as fault:
                results[name][key] = "{}: {}".format(fault.status, fault)
            results[name][key + " state"] = sorted(
                [where, mode] for where, (mode, *_) in state(root).items() if where not in ("/link", "/inside")
            )
    print(json.dumps(results))


if __name__ == "__main__":
    acts = {"write": write, "restore": put_back, "continue_restore": continue_restore, "undo": undo, "hostile": hostile}
    try:
        acts[sys.argv[2]](*sys.argv[3:])
    except Fault as fault:
        print(fault)
        sys.exit(fault.status)
