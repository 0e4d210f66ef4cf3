"""Training shows progress, losses and samples: a bar on a terminal, plain lines elsewhere; TensorBoard gets events."""

import json

import pytest

from contract.card import Sample
from export.repository.history import Epoch, Progress
from export.training.display import EventWriter, ProgressFile, TerminalDisplay
from export.training.trainer import learning_rate_at
from tests.terminals import TerminalFile
from tests.unit.export.trainings import Watcher, scalars, start_loop

SAMPLES = (Sample(temperature=0.7, given="the cat", text=" sat\non the mat"),)


PROGRESS = Progress(history=(Epoch(train_loss=2.5, validation_loss=2.25, accuracy=None, tokens=1000, seconds=1.0),))


def test_without_a_terminal_there_are_plain_lines(capsys):
    with TerminalDisplay(lambda _: SAMPLES) as display:
        display.update(1, 2.6, 500, 0.5)
        display.epoch(PROGRESS, None)
    out, err = capsys.readouterr()
    first, *sample = out.splitlines()
    assert first.startswith("epoch 1: loss 2.500, validation 2.250 nats/token, ")
    assert first.endswith("tokens/s, best so far")
    assert sample == ["    [the cat] sat", "    on the mat"]
    assert err == ""


def test_an_epoch_that_is_not_the_best_is_not_marked_as_best(capsys):
    worse = Epoch(train_loss=2.75, validation_loss=None, accuracy=None, tokens=2000, seconds=2.0)
    with TerminalDisplay(lambda _: SAMPLES) as display:
        display.epoch(PROGRESS.after(worse), None)
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("epoch 2: loss 2.750 nats/token, ")
    assert "best" not in first


def test_the_progress_file_of_a_resumed_run_begins_with_its_epochs(tmp_path):
    """A process that was killed after it saved an epoch may not have written it."""
    worse = Epoch(train_loss=2.75, validation_loss=2.5, accuracy=None, tokens=2000, seconds=2.0)
    before = PROGRESS.after(worse)
    file = ProgressFile(tmp_path / "progress", lambda: SAMPLES, before)
    file.epoch(before.after(worse.model_copy(update={"validation_loss": 2.0})), None)
    lines = [json.loads(line) for line in (tmp_path / "progress").read_text().splitlines()]
    assert [(line["epoch"], line["is_best"], line["validation_loss"], line["samples"]) for line in lines] == [
        (1, True, 2.25, []),
        (2, False, 2.5, []),
        (3, True, 2.0, [SAMPLES[0].model_dump()]),
    ]


def test_the_progress_file_has_evaluations_within_an_epoch(tmp_path):
    file = ProgressFile(tmp_path / "progress", lambda: SAMPLES, Progress())
    file.evaluation(2.25, 0.5)
    (line,) = (tmp_path / "progress").read_text().splitlines()
    assert json.loads(line) == {"event": "evaluation", "fraction": 0.5, "validation_loss": 2.25}


def test_the_time_left_does_not_count_what_precedes_the_run(tmp_path, monkeypatch):
    """As the validation of a base; nor the first update, which takes long. The run has 100 seconds, from 60 on."""
    monkeypatch.setattr("time.monotonic", lambda: 5)
    file = ProgressFile(tmp_path / "progress", lambda: SAMPLES, Progress())
    for now, fraction in ((70, 0.0), (72, 0.1), (74, 0.12)):
        monkeypatch.setattr("time.monotonic", lambda now=now: now)
        file.update(1, 2.0, 500, fraction)
    lines = [json.loads(line) for line in (tmp_path / "progress").read_text().splitlines()]
    assert [line["seconds_left"] for line in lines] == [None, None, pytest.approx(88)]


def test_a_terminal_shows_a_bar_with_losses_speed_and_time_left(monkeypatch):
    terminal = TerminalFile()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("COLUMNS", "80")
    with TerminalDisplay(lambda _: SAMPLES) as display:
        display.epoch(PROGRESS, None)
        display._bar.mininterval = 0
        display.update(2, 2.125, 500, 0.5)
        display.update(2, 2.0, 500, 0.625)
        shown = terminal.getvalue().rpartition("\r")[2]
    assert shown.startswith("epoch 2  62%|██████▎   | 00:")
    assert " left, loss 2.000, val 2.250, " in shown
    assert shown.rstrip().endswith("tokens/s")
    assert len(shown) <= 80
    assert terminal.getvalue().rpartition("\r")[2].strip() == ""


def test_the_progress_bar_of_a_resumed_run_starts_at_its_progress(monkeypatch):
    """The time left is estimated from this session alone."""
    monkeypatch.setattr("sys.stderr", TerminalFile())
    with TerminalDisplay(lambda _: SAMPLES) as display:
        display.update(9, 2.0, 500, 0.9)
        assert (display._bar.initial, display._bar.n) == (0.9, 0.9)
        display.update(9, 2.0, 500, 0.95)
        assert (display._bar.initial, display._bar.n) == (0.9, 0.95)


def test_losses_rates_and_accuracies_are_logged_by_token_count(tmp_path):
    trainer, folder = start_loop(tmp_path / "m", losses=[2.0, 1.0], epochs=2)
    watcher = Watcher()
    with EventWriter(folder.events, trainer.config, tokens=5_000) as events:
        progress = trainer.run(folder, [watcher, events])
    found = scalars(folder.events)
    assert [value for _, value in found["train/loss"]] == pytest.approx(watcher.losses)
    expected = [learning_rate_at(fraction, 4e-3, 0.05) for fraction in watcher.fractions]
    assert [value for _, value in found["train/learning_rate"]] == pytest.approx(expected)
    epochs = [(5_000 + epoch.tokens, epoch.validation_loss) for epoch in progress.history]
    assert found["validation/loss"] == [(tokens, pytest.approx(loss)) for tokens, loss in epochs]
    assert [value for _, value in found["validation/accuracy"]] == pytest.approx(
        [epoch.accuracy for epoch in progress.history]
    )
    assert found["validation/perplexity"][0][1] > 1
