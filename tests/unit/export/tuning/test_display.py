"""A search shows a progress bar on a terminal, plain lines elsewhere, and a table at its end."""

from pathlib import Path

from export.tuning.display import SearchDisplay, results_table
from export.tuning.trials import Trial
from tests.terminals import TerminalFile


def trial(number, **values):
    return Trial(number, values.pop("settings", {}), Path(str(number)), 4.0, **values)


def test_a_terminal_shows_a_bar_with_the_time_left_and_the_best_loss(monkeypatch):
    terminal = TerminalFile()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("COLUMNS", "80")
    best, running = trial(1, loss=1.5, epoch_loss=1.5), trial(2, train_loss=2.25, loss=1.75)
    with SearchDisplay(60.0) as display:
        display._bar.mininterval = 0
        display.update(running, best)
        shown = terminal.getvalue().rpartition("\r")[2]
    assert shown.startswith("trial 2   0%|")
    assert shown.rstrip().endswith("| 60:00 left, loss 2.250, val 1.750, best 1.500")


def test_a_line_tells_how_a_trial_ended(capsys):
    best = trial(1, state="complete", loss=1.5, epoch_loss=1.5)
    with SearchDisplay(60.0) as display:
        display.update(best, None)
        display.ended(trial(2, state="stopped", loss=1.75, trained_minutes=1.25, settings={"units": 64}), best)
        display.ended(trial(3, state="failed", error="the loss is nan"), best)
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "trial 2, units 64: validation loss 1.750 after 1.2 min, stopped (best 1.500, trial 1)",
        "trial 3, the recipe: no validation loss after 0.0 min, failed: the loss is nan (best 1.500, trial 1)",
    ]
    assert err == ""


def test_the_minutes_of_a_trial_are_those_since_its_first_update(monkeypatch):
    """A run of few epochs ends before its time limit, so the fraction done says nothing of its minutes."""
    running = trial(1)
    for now, fraction in ((100, 0.0), (160, 0.5)):
        monkeypatch.setattr("time.monotonic", lambda now=now: now)
        running.read({"event": "update", "train_loss": 2.0, "fraction": fraction})
    assert running.trained_minutes == 1


def test_the_table_begins_with_the_lowest_loss_and_ends_with_trials_that_have_none():
    trials = [trial(1, state="failed"), trial(2, state="stopped", loss=1.75), trial(3, state="complete", loss=1.5)]
    _, *rows = results_table(trials)
    assert [row.split()[0] for row in rows] == ["3", "2", "1"]
