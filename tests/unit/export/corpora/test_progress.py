"""Large texts show a progress bar on a terminal and log lines elsewhere; small ones show nothing."""

import io

import pytest

from export.corpora import progress
from export.corpora.progress import ProgressLine


class Terminal(io.StringIO):
    """Standard error that is a terminal."""

    def isatty(self):
        return True


def test_a_fast_task_shows_no_progress(capsys, monkeypatch):
    """Neither a bar on a terminal nor lines elsewhere."""
    with ProgressLine("reading", 100) as shown:
        shown.step(100)
    assert capsys.readouterr() == ("", "")
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with ProgressLine("reading", 100) as shown:
        shown.step(100)
    assert terminal.getvalue() == ""


@pytest.mark.parametrize(("total", "line"), [(4_000_000, "reading: 3 of 4 MB"), (None, "reading: 3 MB")])
def test_without_a_terminal_progress_is_logged_at_intervals(capsys, monkeypatch, total, line):
    """A line has the megabytes done, and the total if it is known."""
    now = iter([0, 10, 31, 31, 40])
    monkeypatch.setattr("time.monotonic", lambda: next(now))
    with ProgressLine("reading", total) as shown:
        for _ in range(3):
            shown.step(1_500_000)
    assert capsys.readouterr().out == f"{line}\n"


def test_on_a_terminal_the_progress_bar_is_cleared_at_the_end(monkeypatch):
    """No log lines are printed beside it."""
    terminal, lines = Terminal(), io.StringIO()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setattr("sys.stdout", lines)
    monkeypatch.setattr(progress, "QUIET_S", 0.0)
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.0)
    with ProgressLine("encoding", 2_000_000) as shown:
        shown._bar.mininterval = 0
        shown.step(1_000_000)
        assert "encoding:  50%" in terminal.getvalue()
    assert terminal.getvalue().rpartition("\r")[0].endswith(" ")
    assert lines.getvalue() == ""
