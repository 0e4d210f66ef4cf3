"""Training hands the state on, keeps the best epoch, ends when it should and can be gone on with."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from export.config import load_config
from export.errors import TrainingFailed
from export.graphs.network import CELLS
from export.training import trainer as training
from export.training.devices import Cut
from export.training.model import Compute, build_model, count_parameters, forward, zero_states
from export.training.runs import RunFolder
from export.training.trainer import FINAL_RATE, Evaluation, learning_rate_at
from tests.unit.export.trainings import SETTINGS, TEXT, Watcher, prepare, start


@pytest.fixture(params=CELLS)
def cell(request):
    """Each kind of cell."""
    return request.param


# What holds of the loop around the cells holds for each.
one_cell = pytest.mark.parametrize(
    "cell",
    ["lstm", *(pytest.param(cell, marks=pytest.mark.slow) for cell in CELLS if cell != "lstm")],
    indirect=True,
)


def interrupt(at):
    """Return a hook that raises what Ctrl-C raises, the given time it is called."""

    def hook(count):
        if count == at:
            raise KeyboardInterrupt

    return hook


def same(some, others):
    """Say whether two lists of arrays are equal to the bit."""
    return all(np.array_equal(a, b) for a, b in zip(some, others, strict=True))


BUILT = {
    "one layer": {},
    "three layers": {"layers": 3},
    "residual": {"layers": 3, "connections": "residual"},
    "skip": {"layers": 2, "connections": "skip"},
    "tied": {"tie_embeddings": True, "embedding": SETTINGS["units"]},
    "tied by a projection": {"tie_embeddings": True, "layers": 2, "connections": "skip"},
    "both ways": {"bidirectional": True, "context": 9},
    "both ways, stacked and tied": {"bidirectional": True, "context": 9, "layers": 2, "tie_embeddings": True},
}


@pytest.mark.parametrize("kind", BUILT)
def test_the_number_of_parameters_is_known_before_there_are_any(cell, kind):
    """What is counted is what Keras counts."""
    config = load_config(None, {**SETTINGS, "cell": cell, **BUILT[kind]})
    # Keras counts the state of dropout's random numbers too.
    weights = build_model(config, 11).trainable_weights
    assert count_parameters(config, 11) == sum(np.size(weight) for weight in weights)


@pytest.mark.parametrize("cut", [Cut(), Cut(rows=2), Cut(units=2)])
@pytest.mark.parametrize("kind", BUILT)
def test_the_forward_pass_of_every_kind_is_the_keras_models(kind, cut):
    """Connections, tied weights and windows are trained as they are saved, on one core or more."""
    model = build_model(load_config(None, {**SETTINGS, **BUILT[kind]}), 11)
    for weight in model.trainable_weights:
        # Keras's biases begin at zero, where a forgotten one would not be missed.
        weight.assign(np.random.default_rng(1).normal(0, 0.5, weight.shape))
    token_ids = np.random.default_rng(0).integers(0, 11, (3, 9)).astype(np.int32)
    parts, _ = forward(model, token_ids.T, zero_states(model, 3), training=False, compute=Compute(cut=cut))
    logits = np.concatenate(parts, axis=1)
    expected = np.asarray(model(token_ids))
    got = np.swapaxes(logits, 0, 1) if expected.ndim == 3 else logits[0]
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_recurrent_dropout_has_one_mask_for_a_window_and_another_for_the_next(monkeypatch):
    """Each sequence has its own; without training there is none."""
    model, masks = build_model(load_config(None, {**SETTINGS, "recurrent_dropout": 0.5, "units": 64}), 11), []

    def record(_cell, x, state, _weights, mask, *_):
        masks.append(mask)
        return tf.zeros([*x.shape[:2], 64]), state

    monkeypatch.setattr("export.training.model.run_layer", record)
    for is_training in (True, True, False):
        forward(model, np.zeros((9, 3), np.int32), zero_states(model, 3), training=is_training)
    first, second, none = masks
    assert none is None
    assert first.shape == (3, 64)
    assert set(np.unique(first)) == {0.0, 2.0}
    assert not np.array_equal(first, second)
    assert not np.array_equal(first[0], first[1])


def test_the_forward_pass_is_the_keras_models(cell):
    """What is trained is what is saved: from the zero state both give the same logits."""
    model = build_model(load_config(None, {**SETTINGS, "cell": cell, "layers": 2}), 11)
    token_ids = np.random.default_rng(0).integers(0, 11, (3, 9)).astype(np.int32)
    (logits,), states = forward(model, token_ids.T, zero_states(model, 3), training=False)
    np.testing.assert_allclose(np.swapaxes(logits, 0, 1), model(token_ids), atol=1e-5)
    assert [len(state) for state in states] == [2 if cell == "lstm" else 1] * 2


def test_a_window_goes_on_in_every_layer_where_the_last_one_ended(cell):
    """Two windows with the states handed over give what one long window gives."""
    model = build_model(load_config(None, {**SETTINGS, "cell": cell, "layers": 2}), 11)
    token_ids = np.random.default_rng(0).integers(0, 11, (9, 3)).astype(np.int32)
    (whole,), _ = forward(model, token_ids, zero_states(model, 3), training=False)
    (first,), states = forward(model, token_ids[:4], zero_states(model, 3), training=False)
    (second,), _ = forward(model, token_ids[4:], states, training=False)
    np.testing.assert_allclose(np.concatenate([first, second]), whole, atol=1e-6)


def test_one_mask_of_dropout_per_sequence_lasts_a_whole_window(monkeypatch):
    """Dropping other units at every step would disturb what the state carries."""
    units = 64
    model = build_model(load_config(None, {**SETTINGS, "dropout": 0.5, "units": units}), units)
    model.get_layer("logits").kernel.assign(np.eye(units))
    monkeypatch.setattr("export.training.model.run_layer", lambda cell, x, state, *_: (tf.ones([9, 3, units]), state))
    (logits,), _ = forward(model, np.zeros((9, 3), np.int32), zero_states(model, 3), training=True)
    dropped = logits.numpy() == 0
    assert (dropped == dropped[:1]).all()
    assert not (dropped == dropped[:, :1]).all()
    assert 0.3 < dropped.mean() < 0.7


@pytest.mark.parametrize(("share", "least", "most"), [(0.0, 0, 0), (0.5, 0.3, 0.7)])
def test_a_share_of_the_windows_begins_from_nothing(tmp_path, share, least, most):
    """As a prompt does; the others go on where the last one ended, and each epoch chooses anew."""
    trainer, folder = start(tmp_path / "run", state_reset_probability=share, epochs=2)
    update, rows = trainer.optimization.update, []

    def record(inputs, targets, states, kept, rate):
        rows.append((kept[:, 0] == 0).tolist())
        return update(inputs, targets, states, kept, rate)

    trainer.optimization.update = record
    trainer.run(folder, Watcher())
    windows = len(rows) // 2
    # The first window of an epoch has nothing to go on with.
    begun = [row for i, row in enumerate(rows) if i % windows]
    assert least <= np.mean(begun) <= most
    assert share == 0 or rows[1:windows] != rows[windows + 1 :]


def test_the_learning_rate_rises_to_its_peak_and_falls_to_its_end():
    """A tenth of the run up, the rest down by a cosine."""
    rates = [learning_rate_at(fraction, 1.0, 0.1) for fraction in (0, 0.05, 0.1, 0.55, 1, 1.2)]
    assert rates == pytest.approx([0.001, 0.5, 1.0, (1 + FINAL_RATE) / 2, FINAL_RATE, FINAL_RATE])


def test_the_learning_rate_is_set_before_each_update(tmp_path):
    """The schedule follows the share of the run that is done, over all epochs."""
    trainer, folder = start(tmp_path / "m", learning_rate=0.5, warmup=0.2)
    update, rates = trainer.optimization.update, []

    def record(*arguments):
        rates.append(arguments[-1])
        return update(*arguments)

    trainer.optimization.update = record
    watcher = Watcher()
    trainer.run(folder, watcher)
    assert rates == pytest.approx([learning_rate_at(fraction, 0.5, 0.2) for fraction in watcher.fractions])
    assert watcher.fractions == sorted(watcher.fractions)
    assert watcher.fractions[0] == 0
    assert 0.8 < watcher.fractions[-1] < 1


@one_cell
def test_each_window_begins_with_the_state_in_which_the_last_one_ended(tmp_path, cell):
    """The state is carried through an epoch, and is zero at its beginning."""
    trainer, folder = start(tmp_path / "m", cell=cell, layers=2, epochs=2, state_reset_probability=0)
    update, begun, ended = trainer.optimization.update, [], []

    def spy(inputs, targets, states, *rest):
        begun.append(states)
        loss, states = update(inputs, targets, states, *rest)
        ended.append(states)
        return loss, states

    trainer.optimization.update = spy
    firsts = []
    trainer.run(folder, Watcher(at_epoch=lambda _: firsts.append(len(begun))))
    for i, states in enumerate(begun):
        expected = zero_states(trainer.averaged_model, 4) if i in (0, firsts[0]) else ended[i - 1]
        assert same([part for state in states for part in state], [part for state in expected for part in state])
    assert len(begun) > 2 * len(firsts)


def test_the_validation_loss_is_that_of_the_known_tokens_in_one_go(tmp_path):
    """Windows do not show in it, and neither does a character that the vocabulary does not hold."""
    trainer, folder = start(tmp_path / "m", text=TEXT + "the cXt sXt on thX mat" * 6, epochs=1, sequence_length=7)
    loss = trainer.run(folder, Watcher()).last.validation_loss
    streams, unknown = trainer.dataset.validation, trainer.dataset.unknown
    inputs = np.concatenate([window for window, _ in streams.batches()]).T
    logits = np.asarray(trainer.averaged_model(inputs, training=False), np.float64)
    log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    each = -np.take_along_axis(log_probabilities, streams.targets[..., None].astype(np.int64), -1)[..., 0]
    assert (streams.targets == unknown).sum() > 5
    assert streams.num_batches > 2
    assert loss == pytest.approx(each[streams.targets != unknown].mean(), abs=1e-4)


def test_what_can_be_learnt_is_learnt(tmp_path):
    """A text that repeats itself is soon known by heart: a fifth of the loss that guessing by frequency has."""
    trainer, folder = start(tmp_path / "m", units=32, epochs=12, batch_size=2, learning_rate=0.03, dropout=0)
    progress = trainer.run(folder, Watcher())
    shares = np.array([TEXT.count(character) / len(TEXT) for character in set(TEXT)])
    assert progress.best.validation_loss < 0.2 * -(shares * np.log(shares)).sum()


@pytest.mark.parametrize(("losses", "best"), [([3.0, 1.0, 2.0], 2), ([3.0, 2.0, 1.0], 3), ([1.0, 1.0, 1.0], 1)])
def test_the_epoch_with_the_least_loss_is_kept(tmp_path, monkeypatch, losses, best):
    """Its weights are those that are published, whatever came after it."""
    trainer, folder = start(tmp_path / "m", validation=0)
    monkeypatch.setattr(trainer, "_validate", lambda progress: Evaluation(losses[progress.epochs], 0.5))
    watcher = Watcher()
    progress = trainer.run(folder, watcher)
    assert (progress.best_epoch, progress.best.loss) == (best, losses[best - 1])
    kept = folder.load_best(progress)
    assert same([weight.numpy() for weight in kept.trainable_variables], watcher.weights[best - 1])
    assert not same(watcher.weights[0], watcher.weights[-1])


def test_without_validation_the_training_loss_decides(tmp_path, monkeypatch):
    """There is nothing else to go by."""
    trainer, folder = start(tmp_path / "m", validation=0)
    monkeypatch.setattr(trainer, "_train_epoch", lambda progress, *_: ([3.0, 1.0, 2.0][progress.epochs], 10))
    progress = trainer.run(folder, Watcher())
    assert (progress.best_epoch, progress.best.validation_loss) == (2, None)


def spoil(trainer, part):
    """Let something be no number from the second epoch on, and return the name by which it must be told."""
    if part == "weight":
        train_epoch, kernel = trainer._train_epoch, trainer.averaged_model.get_layer("logits").kernel

        def ruin_at_the_end(progress, *arguments):
            outcome = train_epoch(progress, *arguments)
            kernel.assign(kernel + (float("nan") if progress.epochs == 1 else 0.0))
            return outcome

        trainer._train_epoch = ruin_at_the_end
        return r"the sum of \|.*logits/kernel\| is nan"
    name, value = {"training": ("update", "nan"), "validation": ("evaluate", "inf")}[part]
    function = getattr(trainer.optimization, name)
    first = trainer.dataset.train.num_batches if part == "training" else trainer.dataset.validation.num_batches
    calls, hits = itertools.count(), () if part == "training" else (0.0,)
    spoilt = lambda *a: (float(value), *hits, a[2]) if next(calls) >= first else function(*a)  # noqa: E731
    setattr(trainer.optimization, name, spoilt)
    return f"the {'validation ' * (part == 'validation')}loss is {value}"


@pytest.mark.parametrize("part", ["training", "validation", "weight"])
def test_a_loss_that_is_no_number_ends_the_training_with_an_explanation(tmp_path, part):
    """The message says where, and which settings to change; the epoch before it stays the best."""
    trainer, folder = start(tmp_path / "m", validation=0.1 if part == "validation" else 0)
    name = spoil(trainer, part)
    advice = r"lower --learning-rate \(now 0\.004\) or --clip-norm \(now 1\.0\)"
    with pytest.raises(TrainingFailed, match=f"^{name} in epoch 2; {advice}$"):
        trainer.run(folder, Watcher())
    progress = folder.progress()
    assert progress.epochs == 1
    assert all(np.isfinite(weight.numpy()).all() for weight in folder.load_best(progress).weights)


class Clock:
    """Time that passes by itself, a second at a look."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        self.now += 1
        return self.now


@pytest.fixture
def clock(monkeypatch):
    """A clock in the place of the trainer's."""
    clock = Clock()
    monkeypatch.setattr(training, "time", clock)
    return clock


@pytest.mark.usefixtures("clock")
def test_minutes_end_the_training_within_an_epoch(tmp_path):
    """The epoch that is cut short counts, and the learning rate has come to its end by then."""
    trainer, folder = start(tmp_path / "m", epochs=100, max_minutes=0.5)
    watcher = Watcher()
    progress = trainer.run(folder, watcher)
    assert progress.epochs == 3
    assert 30 <= progress.last.seconds <= 35
    assert watcher.fractions[-1] > 0.9
    assert progress.last.tokens == pytest.approx(len(watcher.fractions) * 100, rel=0.1)


@pytest.mark.usefixtures("clock")
def test_minutes_alone_train_that_long(tmp_path):
    """However many epochs these are: more than the ten that are the end where none is given."""
    trainer, folder = start(tmp_path / "m", epochs=None, max_minutes=3)
    watcher = Watcher()
    progress = trainer.run(folder, watcher)
    assert progress.epochs > 10
    assert 180 <= progress.last.seconds <= 185
    # Time left and learning rate follow from the fraction: it rises evenly to its end.
    steps = np.diff(watcher.fractions)
    assert steps.min() > 0
    assert 0.9 < watcher.fractions[-1] <= 1


@pytest.mark.usefixtures("clock")
def test_of_minutes_and_epochs_what_comes_first_ends_the_training(tmp_path):
    """Here these are the epochs."""
    trainer, folder = start(tmp_path / "m", epochs=2, max_minutes=30)
    assert trainer.run(folder, Watcher()).epochs == 2


@pytest.mark.usefixtures("clock")
def test_there_is_one_update_however_little_time_there_is(tmp_path):
    """A run has something to publish: an epoch of nothing would have no loss."""
    trainer, folder = start(tmp_path / "m", max_minutes=1e-6)
    watcher = Watcher()
    progress = trainer.run(folder, watcher)
    assert (progress.epochs, len(watcher.losses)) == (1, 1)
    assert np.isfinite(progress.best.loss)


def test_minutes_before_an_interruption_count(tmp_path, clock):
    """A run that is stopped and resumed trains no longer than one that is not; what lies between does not count."""
    settings = {"epochs": 100, "max_minutes": 1.0}
    trainer, folder = start(tmp_path / "m", **settings)
    with pytest.raises(KeyboardInterrupt):
        trainer.run(folder, Watcher(at_epoch=interrupt(2)))
    spent = folder.progress().last.seconds
    assert 20 < spent < 40
    clock.now += 10_000
    watcher = Watcher()
    progress = prepare(**settings)[0].run(folder, watcher)
    assert 60 <= progress.last.seconds <= 65
    assert watcher.fractions[0] == pytest.approx(spent / 60, abs=0.05)
    again = Watcher()
    assert prepare(**settings)[0].run(folder, again) == progress
    assert again.fractions == []


@one_cell
def test_a_seed_gives_one_model_and_another_seed_another(tmp_path, cell):
    """On one machine a training can be repeated to the bit."""
    settings = {"cell": cell, "dropout": 0.4, "epochs": 2}
    weights = {}
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        trainer, folder = start(tmp_path / name, **settings, seed=seed)
        watcher = Watcher()
        trainer.run(folder, watcher)
        weights[name] = watcher.weights[-1]
    assert same(weights["a"], weights["b"])
    assert not same(weights["a"], weights["c"])


@pytest.mark.parametrize("moment", ["epoch", "window"])
def test_a_resumed_run_ends_as_one_that_was_not_interrupted(tmp_path, moment):
    """Weights, optimizer, dropout and schedule go on after the last whole epoch, to the bit."""
    settings = {"dropout": 0.4, "epochs": 4}
    trainer, folder = start(tmp_path / "whole", **settings)
    whole = Watcher()
    expected = trainer.run(folder, whole)

    trainer, folder = start(tmp_path / "parts", **settings)
    watcher = Watcher(at_epoch=interrupt(2)) if moment == "epoch" else Watcher(at_window=interrupt(26))
    with pytest.raises(KeyboardInterrupt):
        trainer.run(folder, watcher)
    assert folder.progress().epochs == 2
    rest = Watcher()
    progress = prepare(**settings)[0].run(RunFolder(folder.path), rest)
    assert [epoch.loss for epoch in progress.history] == [epoch.loss for epoch in expected.history]
    assert same(rest.weights[-1], whole.weights[-1])


def test_what_asks_for_an_end_is_asked_between_two_steps(tmp_path):
    """Also during the validation, which may take long."""
    trainer, folder = start(tmp_path / "m", epochs=1)
    asked = []
    trainer.raise_if_interrupted = lambda: asked.append(len(watcher.losses))
    watcher = Watcher()
    trainer.run(folder, watcher)
    windows, judged = len(watcher.losses), trainer.dataset.validation.num_batches
    assert asked == [*range(1, windows + 1), *[windows] * (judged + 1)]


def test_a_training_that_gets_no_better_ends(tmp_path, monkeypatch):
    """After as many epochs in a row as the setting says; a run that is resumed then has nothing left to do."""
    losses = [3.0, 2.0, 2.5, 2.1, 1.0, 1.0]
    trainer, folder = start(tmp_path / "m", epochs=6, patience=2)
    monkeypatch.setattr(trainer, "_validate", lambda progress: Evaluation(losses[progress.epochs], 0.5))
    progress = trainer.run(folder, Watcher())
    assert (progress.epochs, progress.best_epoch) == (4, 2)
    assert prepare(epochs=6, patience=2)[0].run(folder, Watcher()) == progress
    trainer, folder = start(tmp_path / "n", epochs=6, patience=3)
    monkeypatch.setattr(trainer, "_validate", lambda progress: Evaluation(losses[progress.epochs], 0.5))
    assert trainer.run(folder, Watcher()).epochs == 6


def test_accuracy_is_the_share_of_known_tokens_that_were_expected(tmp_path):
    """Of the held-out text, without dropout."""
    trainer, folder = start(tmp_path / "m", text=TEXT + "the cXt sat on the mat" * 6, epochs=1, ema=0)
    last = trainer.run(folder, Watcher()).last
    streams, unknown = trainer.dataset.validation, trainer.dataset.unknown
    inputs = np.concatenate([[2], streams.ids[:-1]]).reshape(streams.targets.shape)
    expected = np.argmax(trainer.averaged_model(inputs, training=False), axis=-1) == streams.targets
    assert last.accuracy == pytest.approx(expected[streams.targets != unknown].mean())
    assert 0 < last.accuracy < 1
