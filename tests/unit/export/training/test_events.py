"""TensorBoard event files have the scalars of the training run."""

import pytest

from export.training.events import EventDisplay
from export.training.trainer import learning_rate_at
from tests.unit.export.trainings import Watcher, scalars, start


def test_losses_rates_and_accuracies_are_logged_by_token_count(tmp_path):
    """For every update and every epoch; the terminal display gets them too."""
    trainer, folder = start(tmp_path / "m", epochs=2)
    watcher = Watcher()
    with EventDisplay(watcher, folder.events, trainer.config, tokens=0) as display:
        progress = trainer.run(folder, display)
    found = scalars(folder.events)
    assert [value for _, value in found["train/loss"]] == pytest.approx(watcher.losses)
    expected = [learning_rate_at(fraction, 4e-3, 0.05) for fraction in watcher.fractions]
    assert [value for _, value in found["train/learning_rate"]] == pytest.approx(expected)
    epochs = [(epoch.tokens, epoch.validation_loss) for epoch in progress.history]
    assert found["validation/loss"] == [(tokens, pytest.approx(loss)) for tokens, loss in epochs]
    assert [value for _, value in found["validation/accuracy"]] == pytest.approx(
        [epoch.accuracy for epoch in progress.history]
    )
    assert found["validation/perplexity"][0][1] > 1


def test_a_resumed_run_continues_the_step_count(tmp_path):
    """Its steps start from the tokens of the earlier sessions."""
    trainer, folder = start(tmp_path / "m", epochs=1)
    with EventDisplay(Watcher(), folder.events, trainer.config, tokens=5_000) as display:
        tokens = trainer.run(folder, display).last.tokens
    assert scalars(folder.events)["train/loss"][-1][0] == 5_000 + tokens
