"""Templates: the names that they know, and what an unknown one is answered with (D30)."""

from __future__ import annotations

import pytest

from runsdeploy.errors import Problem
from runsdeploy.plan.template import render
from tests import making


def test_both_names_of_the_host_work(tmp_path):
    """D30."""
    path = tmp_path / "page.j2"
    path.write_text("{{ host }} {{ RUNS_HOST }}\n")
    assert render(path, [], "medusa.univ.run") == b"medusa.univ.run medusa.univ.run\n"


@pytest.mark.parametrize(("name", "near"), [("RUNS_HSOT", "RUNS_HOST"), ("hots", "host"), ("prot", "port")])
def test_an_unknown_name_is_answered_with_the_nearest(tmp_path, name, near):
    """D30."""
    path = tmp_path / "page.j2"
    path.write_text(f"a\n{{{{ {name} }}}}\n")
    found = render(path, [making.variable("port", "80")], "medusa")
    assert isinstance(found, Problem)
    assert (found.position.line, found.hint) == (2, f"did you mean `{near}`?")
