"""A rollout with sessions that end as none was meant to."""

from __future__ import annotations

from runsdeploy.rollout.rollout import Listener, roll_out
from runsdeploy.session.run import Run
from tests import making


class Silent(Listener):
    """A listener that shows nothing."""

    begin = event = end = stopping = lambda *_: None


class Broken(Run):
    """A session with a mistake of ours in it."""

    def events(self):
        raise IndexError("surprise")
        yield


class Sound(Run):
    """A session without steps."""

    def events(self):
        yield from ()


def test_a_mistake_of_ours_on_one_host_has_a_report_file_and_hides_no_other_host(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    runs = [kind(making.plan(), None, None) for kind in (Broken, Sound)]
    (broken, sound), signal = roll_out(runs, Silent(), 2)
    (report,) = tmp_path.glob("runsdeploy-report-*.txt")
    assert signal == 0
    assert broken.message == f"runsdeploy itself failed: IndexError: surprise; traceback in `{report}`"
    assert sound.message == ""
    assert "IndexError" in report.read_text()
