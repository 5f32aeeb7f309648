"""Agendas: settings and catalogue become what a run will do."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from runsdeploy.jobs.commands.load import load
from runsdeploy.jobs.settings import agenda


@pytest.mark.parametrize(
    ("installed", "first"),
    [
        (["docker"], ["docker", "compose"]),
        (["docker", "docker-compose"], ["docker-compose"]),
        (["docker-compose"], ["docker-compose"]),
        ([], ["docker-compose"]),
    ],
)
def test_compose_is_the_one_that_the_machine_has(installed, first, tmp_path, system, monkeypatch):
    """N13: `docker-compose` is gone from current hosts."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in installed:
        (tools / name).write_text("#!/bin/sh\n")
        (tools / name).chmod(0o755)
    monkeypatch.setattr(agenda, "PATH", str(tools))
    system.write_settings(RUN_MOX_ROLLE=True, MOX_ROLLE_COMPOSE_YML="/srv/compose.yml")
    program = str(system.program)
    (task,) = agenda.make_agenda(*load(SimpleNamespace(), program), program).tasks
    assert list(task.command.argv) == [*first, "-f", "/srv/compose.yml", "up"]
