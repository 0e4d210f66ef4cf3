"""Terminal output: the progress of a large text, and samples."""

import io

import pytest

from export import terminal as terminal_module
from export.terminal import ProgressLine, wrap_sample
from tests.terminals import TerminalFile


def test_a_fast_task_shows_no_progress(capsys, monkeypatch):
    with ProgressLine("reading", 100) as shown:
        shown.step(100)
    assert capsys.readouterr() == ("", "")
    terminal = TerminalFile()
    monkeypatch.setattr("sys.stderr", terminal)
    with ProgressLine("reading", 100) as shown:
        shown.step(100)
    assert terminal.getvalue() == ""


@pytest.mark.parametrize(("total", "line"), [(4_000_000, "reading: 3 of 4 MB"), (None, "reading: 3 MB")])
def test_without_a_terminal_progress_is_logged_at_intervals(capsys, monkeypatch, total, line):
    now = iter([0, 10, 31, 31, 40])
    monkeypatch.setattr("time.monotonic", lambda: next(now))
    with ProgressLine("reading", total) as shown:
        for _ in range(3):
            shown.step(1_500_000)
    assert capsys.readouterr().out == f"{line}\n"


def test_on_a_terminal_the_progress_bar_is_cleared_at_the_end(monkeypatch):
    terminal, lines = TerminalFile(), io.StringIO()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setattr("sys.stdout", lines)
    monkeypatch.setattr(terminal_module, "QUIET_S", 0.0)
    monkeypatch.setattr(terminal_module, "LINE_EVERY_S", 0.0)
    with ProgressLine("encoding", 2_000_000) as shown:
        shown._bar.mininterval = 0
        shown.step(1_000_000)
        assert "encoding:  50%" in terminal.getvalue()
    assert terminal.getvalue().rpartition("\r")[0].endswith(" ")
    assert lines.getvalue() == ""


def test_a_sample_is_indented_and_wrapped(monkeypatch):
    """A sample of words has no newlines of its own."""
    monkeypatch.setenv("COLUMNS", "60")
    lines = wrap_sample("[one two]" + " three" * 50).splitlines()
    assert len(lines) > 5
    assert all(line.startswith("    ") and len(line) <= 60 for line in lines)
    assert lines[0].startswith("    [one two] three three")


def test_a_sample_fits_into_no_terminal_of_five_columns_and_ends_no_training(monkeypatch):
    monkeypatch.setenv("COLUMNS", "5")
    assert wrap_sample("ab c") == "    a\n    b\n    c"


def test_a_sample_cannot_send_escape_sequences_to_the_terminal():
    """A corpus of logs may have some: control characters are shown as dots, and blank lines stay."""
    assert wrap_sample("[a]\x1b[2Jb\a\n\nc\td") == "    [a]·[2Jb·\n\n    c   d".replace("\n\n", "\n    \n")
