"""A dry run asks many hosts at a time, and one that does not answer does not hide the others."""

from __future__ import annotations

import threading

from runsdeploy.errors import HostError
from runsdeploy.rollout.prediction import predict_all
from tests.trees import plant, script

HOSTS = [f"web{n}" for n in range(1, 4)]


class Meeting:
    """A connection that is refused when as many others are being opened."""

    def __init__(self, host, barrier):
        self.host, self.barrier = host, barrier

    def open(self):
        self.barrier.wait(30)
        raise HostError(self.host)


def test_d25_a_dry_run_asks_the_hosts_side_by_side(tmp_path):
    from runsdeploy.plan.resolver import resolve  # noqa: PLC0415
    from runsdeploy.tree.includes import COMMAND_LINE  # noqa: PLC0415
    from runsdeploy.tree.recipe import Entry  # noqa: PLC0415
    from runsdeploy.tree.trees import Trees  # noqa: PLC0415

    tree = plant(tmp_path / "tree", {"scripts/a": script("", "true"), **{f"hosts/{h}/default": "a\n" for h in HOSTS}})
    trees = Trees((tree,))
    plans = [resolve(trees, host, [Entry("a", (), COMMAND_LINE)]) for host in trees.hosts()]
    barrier = threading.Barrier(len(HOSTS))
    found = predict_all(plans, {host: Meeting(host, barrier) for host in HOSTS}, parallel=len(HOSTS))
    assert [str(each.message) for each in found] == HOSTS
