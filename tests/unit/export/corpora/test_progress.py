"""Whoever waits for a large text sees how far it is; of a small one nothing is said."""

import io

import pytest

from export.corpora import progress
from export.corpora.progress import ProgressLine


class Terminal(io.StringIO):
    """Standard error that somebody looks at."""

    def isatty(self):
        return True


def test_of_what_is_soon_done_nothing_is_said(capsys, monkeypatch):
    """Neither on a terminal nor elsewhere."""
    with ProgressLine("reading", 100) as shown:
        shown.step(100)
    assert capsys.readouterr() == ("", "")
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with ProgressLine("reading", 100) as shown:
        shown.step(100)
    assert terminal.getvalue() == ""


@pytest.mark.parametrize(("total", "line"), [(4_000_000, "reading: 3 of 4 MB"), (None, "reading: 3 MB")])
def test_without_a_terminal_there_is_a_line_now_and_then(capsys, monkeypatch, total, line):
    """With what is done, and of how much if that is known."""
    now = iter([0, 10, 31, 31, 40])
    monkeypatch.setattr("time.monotonic", lambda: next(now))
    with ProgressLine("reading", total) as shown:
        for _ in range(3):
            shown.step(1_500_000)
    assert capsys.readouterr().out == f"{line}\n"


def test_on_a_terminal_there_is_a_bar_that_goes(monkeypatch):
    """It leaves nothing behind, and no lines stand between."""
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
