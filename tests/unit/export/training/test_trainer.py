"""The training loop: carried state, best epoch, stopping, reproducibility and resuming."""

import itertools
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from export.config import load_config
from export.errors import TrainingFailed
from export.graphs.network import CELLS
from export.repository.history import Progress
from export.training import trainer as training
from export.training.devices import Compute
from export.training.model import (
    activation_penalty,
    build_model,
    count_parameters,
    layer_outputs,
    scaled_logits,
    zero_states,
)
from export.training.runs import RunFolder
from export.training.trainer import FINAL_RATE, learning_rate_at
from tests.unit.export.trainings import SETTINGS, TEXT, Watcher, fake_computation, prepare, start, start_loop


@pytest.fixture(params=CELLS)
def cell(request):
    return request.param


def interrupt(at):
    """Return a hook that raises KeyboardInterrupt, as Ctrl-C does, at this count."""

    def hook(count):
        if count == at:
            raise KeyboardInterrupt

    return hook


def same(some, others):
    return all(np.array_equal(a, b) for a, b in zip(some, others, strict=True))


BUILT = {
    "one layer": {},
    "three layers": {"layers": 3},
    "residual": {"layers": 3, "connections": "residual"},
    "skip": {"layers": 2, "connections": "skip"},
    "tied": {"tie_embeddings": True, "embedding": SETTINGS["units"]},
    "tied by a projection": {"tie_embeddings": True, "layers": 2, "connections": "skip"},
    "both ways": {"bidirectional": True, "context_length": 9},
    "both ways, stacked and tied": {"bidirectional": True, "context_length": 9, "layers": 2, "tie_embeddings": True},
}


# The connections of layers are the same for each cell, and the partitions for each connection.
FIRST = {"residual", "both ways, stacked and tied"}


@pytest.mark.parametrize(
    ("cell", "kind"),
    [
        pytest.param(cell, kind, marks=[] if cell == "lstm" or kind in FIRST else pytest.mark.slow)
        for cell in CELLS
        for kind in BUILT
    ],
)
def test_parameters_are_counted_before_the_model_is_built(cell, kind):
    config = load_config(None, {**SETTINGS, "cell": cell, **BUILT[kind]})
    # All weights would include the state of dropout's random generator.
    weights = build_model(config, 11).trainable_weights
    assert count_parameters(config, 11) == sum(np.size(weight) for weight in weights)


@pytest.mark.parametrize(
    ("vocab_size", "is_tied", "deviation"), [(100, False, 1), (400, False, 0.5), (9999, False, 0.3), (100, True, 0.029)]
)
def test_initial_embeddings_are_small_if_they_are_many_or_the_output_layer(vocab_size, is_tied, deviation):
    model = build_model(load_config(None, {**SETTINGS, "embedding": 64, "tie_embeddings": is_tied}), vocab_size)
    assert np.std(model.get_layer("embedding").embeddings) == pytest.approx(deviation, rel=0.05)


@pytest.mark.parametrize(
    ("kind", "compute"),
    [
        pytest.param(kind, compute, marks=[] if compute == Compute() or kind in FIRST else pytest.mark.slow)
        for kind in BUILT
        for compute in (Compute(), Compute(row_parts=2), Compute(unit_parts=2))
    ],
)
def test_the_forward_pass_of_every_architecture_equals_the_keras_model(kind, compute):
    """Connections, tied weights and windows are trained as they are saved, with and without partitioning."""
    model = build_model(load_config(None, {**SETTINGS, **BUILT[kind]}), 11)
    for weight in model.trainable_weights:
        # Keras initializes biases to zero, where a missing one would go unnoticed.
        weight.assign(np.random.default_rng(1).normal(0, 0.5, weight.shape))
    token_ids = np.random.default_rng(0).integers(0, 11, (3, 9)).astype(np.int32)
    (*_, parts), _ = layer_outputs(model, token_ids.T, zero_states(model, 3), training=False, compute=compute)
    logits = np.concatenate(parts, axis=1)
    expected = np.asarray(model(token_ids))
    got = np.swapaxes(logits, 0, 1) if expected.ndim == 3 else logits[0]
    np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("row_parts", [1, 2])
@pytest.mark.parametrize("kind", ["one layer", "skip", "both ways"])
def test_activation_regularization_is_of_the_top_layer_and_its_changes(kind, row_parts):
    model = build_model(load_config(None, {**SETTINGS, **BUILT[kind]}), 11)
    name = {"one layer": "recurrent_0", "skip": "recurrent_1", "both ways": "bidirectional_0"}[kind]
    top = keras.Model(model.input, model.get_layer(name).output)
    token_ids = np.random.default_rng(0).integers(0, 11, (4, 9)).astype(np.int32)
    h = np.asarray(top(token_ids))
    expected = np.square(h).mean(-1).sum() + (np.square(np.diff(h, axis=1)).mean(-1).sum() if h.ndim == 3 else 0)
    states, compute = zero_states(model, 4), Compute(row_parts=row_parts)
    outputs, _ = layer_outputs(model, token_ids.T, states, training=False, compute=compute)
    assert float(activation_penalty(model, outputs)) == pytest.approx(expected, rel=1e-5)


def forward(model, token_ids, states, *, training):
    """Return the logits of each part of the batch, and the states."""
    outputs, states = layer_outputs(model, token_ids, states, training=training, compute=Compute())
    return outputs[-1], states


def test_recurrent_dropout_has_one_mask_per_sequence_and_update(monkeypatch):
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


@pytest.mark.parametrize("embedding", [4, 8], ids=["embeddings", "one-hot vectors"])
def test_the_forward_pass_of_every_cell_equals_the_keras_model(cell, embedding):
    model = build_model(load_config(None, {**SETTINGS, "cell": cell, "layers": 2, "embedding": embedding}), 11)
    token_ids = np.random.default_rng(0).integers(0, 11, (3, 9)).astype(np.int32)
    (logits,), states = forward(model, token_ids.T, zero_states(model, 3), training=False)
    np.testing.assert_allclose(np.swapaxes(logits, 0, 1), model(token_ids), atol=1e-5)
    assert [len(state) for state in states] == [2 if cell == "lstm" else 1] * 2


def test_carried_states_continue_every_layer(cell):
    model = build_model(load_config(None, {**SETTINGS, "cell": cell, "layers": 2}), 11)
    token_ids = np.random.default_rng(0).integers(0, 11, (9, 3)).astype(np.int32)
    (whole,), _ = forward(model, token_ids, zero_states(model, 3), training=False)
    (first,), states = forward(model, token_ids[:4], zero_states(model, 3), training=False)
    (second,), _ = forward(model, token_ids[4:], states, training=False)
    np.testing.assert_allclose(np.concatenate([first, second]), whole, atol=1e-6)


def test_dropout_has_one_mask_per_sequence_for_all_steps(monkeypatch):
    """Dropping other units at every step would disturb the carried state."""
    units = 64
    model = build_model(load_config(None, {**SETTINGS, "dropout": 0.5, "units": units}), units)
    model.get_layer("logits").kernel.assign(np.eye(units))
    monkeypatch.setattr("export.training.model.run_layer", lambda cell, x, state, *_: (tf.ones([9, 3, units]), state))
    (logits,), _ = forward(model, np.zeros((9, 3), np.int32), zero_states(model, 3), training=True)
    dropped = logits.numpy() == 0
    assert (dropped == dropped[:1]).all()
    assert not (dropped == dropped[:, :1]).all()
    assert 0.3 < dropped.mean() < 0.7


@pytest.mark.parametrize("kind", [{}, {"bidirectional": True}], ids=str)
def test_the_layers_of_the_keras_model_drop_as_the_training_does(kind):
    """A model saved as a `.keras` file is trained further without this package."""
    model = build_model(load_config(None, {**SETTINGS, "dropout": 0.5, **kind}), 11)
    ones = np.ones([9, *([] if kind else [7]), 16], np.float32)
    dropped = model.get_layer("dropout_0")(ones, training=True).numpy() == 0
    assert not (dropped == dropped[:1]).all()
    assert not (dropped == dropped[..., :1]).all()
    assert kind or (dropped == dropped[:, :1]).all()


def test_replicas_drop_different_units(monkeypatch):
    """Each has a share of the batch; otherwise two GPUs would have half as many masks as one."""
    dropped = []
    for replica in (0, 1):
        model = build_model(load_config(None, {**SETTINGS, "dropout": 0.5, "units": 64}), 11)
        model.get_layer("logits").kernel.assign(np.ones((64, 11)))
        context = types.SimpleNamespace(replica_id_in_sync_group=replica)
        monkeypatch.setattr(tf.distribute, "get_replica_context", lambda context=context: context)
        (logits,), _ = forward(model, np.zeros((1, 3), np.int32), zero_states(model, 3), training=True)
        dropped.append(logits.numpy())
    assert not np.allclose(*dropped)


@pytest.mark.parametrize(("share", "least", "most"), [(0.0, 0, 0), (0.5, 0.3, 0.7)])
def test_sequences_are_reset_with_the_configured_probability(tmp_path, share, least, most):
    trainer, folder = start_loop(tmp_path / "run", state_reset_probability=share, epochs=2)
    update, rows = trainer.optimization.update, []

    def record(inputs, targets, states, kept, rate):
        rows.append((kept[:, 0] == 0).tolist())
        return update(inputs, targets, states, kept, rate)

    trainer.optimization.update = record
    trainer.run(folder)
    windows = len(rows) // 2
    # The first update of an epoch has no state to carry.
    begun = [row for i, row in enumerate(rows) if i % windows]
    assert least <= np.mean(begun) <= most
    assert share == 0 or rows[1:windows] != rows[windows + 1 :]


def test_a_document_that_begins_a_window_is_read_from_the_zero_state(tmp_path):
    """It is generated from there, too."""
    settings = {"documents": "lines", "state_reset_probability": 0, "epochs": 2}
    trainer, folder = start_loop(tmp_path / "run", text="the cat\nsat on\nthe mat\n" * 60, **settings)
    update, begun = trainer.optimization.update, []

    def record(inputs, targets, states, kept, rate):
        begun.extend(zip((inputs[0] == trainer.dataset.train.start_id).tolist(), kept[:, 0].tolist(), strict=True))
        return update(inputs, targets, states, kept, rate)

    trainer.optimization.update = record
    trainer.run(folder)
    assert set(begun) == {(True, 0.0), (False, 1.0)}


def test_the_learning_rate_warms_up_and_decays_in_the_second_half():
    rates = [learning_rate_at(fraction, 1.0, 0.1) for fraction in (0, 0.05, 0.1, 0.5, 0.75, 1, 1.2)]
    assert rates == pytest.approx([0.001, 0.5, 1.0, 1.0, (1 + FINAL_RATE) / 2, FINAL_RATE, FINAL_RATE])


def test_the_learning_rate_decays_from_the_end_of_a_long_warmup_on():
    rates = [learning_rate_at(fraction, 1.0, 0.8) for fraction in (0.4, 0.8, 0.9, 1)]
    assert rates == pytest.approx([0.5, 1.0, (1 + FINAL_RATE) / 2, FINAL_RATE])


def test_the_learning_rate_is_set_before_each_update(tmp_path):
    trainer, folder = start_loop(tmp_path / "m", learning_rate=0.5, warmup=0.2)
    update, rates = trainer.optimization.update, []

    def record(*arguments):
        rates.append(arguments[-1])
        return update(*arguments)

    trainer.optimization.update = record
    watcher = Watcher()
    trainer.run(folder, [watcher])
    assert rates == pytest.approx([learning_rate_at(fraction, 0.5, 0.2) for fraction in watcher.fractions])
    assert watcher.fractions == sorted(watcher.fractions)
    assert watcher.fractions[0] == 0
    assert 0.8 < watcher.fractions[-1] < 1


def test_each_update_starts_with_the_final_state_of_the_previous_one(tmp_path):
    trainer, folder = start_loop(tmp_path / "m", layers=2, epochs=2)
    begun, firsts = [], []

    def update(inputs, targets, states, *_):  # noqa: ARG001 - as `Optimization.update`
        begun.append(tf.nest.flatten(states))
        return 1.0, tf.nest.map_structure(lambda part: part + 1.0, states)

    trainer.optimization.update = update
    trainer.run(folder, [Watcher(at_epoch=lambda _: firsts.append(len(begun)))])
    zero = tf.nest.flatten(zero_states(trainer.averaged_model, 4))
    for i, states in enumerate(begun):
        assert same(states, zero if i in (0, firsts[0]) else [part + 1.0 for part in begun[i - 1]])
    assert len(begun) > 2 * len(firsts)


def test_validation_loss_and_accuracy_are_means_over_known_tokens(tmp_path):
    trainer, folder = start(tmp_path / "m", text=TEXT + "the cXt sXt on thX mat" * 6, epochs=1, sequence_length=7)
    last = trainer.run(folder).last
    streams, unknown = trainer.dataset.validation, trainer.dataset.tokenizer.special.unknown
    inputs, targets = (np.concatenate(parts).T for parts in zip(*streams.batches(), strict=True))
    logits = np.asarray(trainer.averaged_model(inputs, training=False), np.float64)
    log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    each = -np.take_along_axis(log_probabilities, targets[..., None].astype(np.int64), -1)[..., 0]
    is_known = targets != unknown
    assert (~is_known).sum() > 5
    assert streams.num_batches > 2
    assert last.validation_loss == pytest.approx(each[is_known].mean(), abs=1e-4)
    assert last.accuracy == pytest.approx((logits.argmax(-1) == targets)[is_known].mean())
    assert 0 < last.accuracy < 1


def test_training_learns_a_repetitive_text(tmp_path):
    """The loss falls below a fifth of that of guessing by character frequency."""
    settings = {"units": 32, "epochs": 3, "batch_size": 2, "learning_rate": 0.03, "dropout": 0}
    trainer, folder = start(tmp_path / "m", TEXT * 4, **settings)
    progress = trainer.run(folder)
    shares = np.array([TEXT.count(character) / len(TEXT) for character in set(TEXT)])
    assert progress.best.validation_loss < 0.2 * -(shares * np.log(shares)).sum()


def test_the_logits_of_an_epoch_have_the_scale_of_the_lowest_validation_loss(tmp_path, monkeypatch):
    """Temperature scaling: an overfitted model is less sure of itself, and its loss is that of the saved model."""
    monkeypatch.setattr(training, "_SCALE_DEVIATION", 100.0)
    text = "".join(np.random.default_rng(0).choice(list("abcdefgh"), 2000))
    trainer, folder = start(tmp_path / "m", text, validation=0.3, epochs=6, learning_rate=0.01, units=32, dropout=0)
    progress = trainer.run(folder)
    last = progress.last
    assert 0.5 < last.next_logit_scale < 0.98

    def loss_at(scale):
        return trainer._validate(Progress(history=(last.model_copy(update={"next_logit_scale": scale}),)))[0]

    assert loss_at(last.logit_scale) == pytest.approx(last.validation_loss, rel=1e-6)
    nearby = {scale: loss_at(scale) for scale in (0.9 * last.next_logit_scale, last.next_logit_scale, 1.0)}
    assert min(nearby, key=nearby.get) == last.next_logit_scale
    monkeypatch.setattr(training, "_SCALE_DEVIATION", 0.01)
    assert last.next_logit_scale < 0.9 < trainer._validate(Progress())[2] < 1.0, "600 tokens hardly tell"
    trainer.averaged_model.set_weights(folder.load_best(progress).get_weights())
    assert loss_at(1.0) == pytest.approx(progress.best.validation_loss, rel=1e-5)


@pytest.mark.parametrize("kind", BUILT)
def test_logits_are_scaled_by_the_output_layer_unless_it_is_the_embedding(kind):
    model = build_model(load_config(None, {**SETTINGS, **BUILT[kind]}), 11)
    token_ids = np.random.default_rng(0).integers(0, 11, (3, 9)).astype(np.int32)
    weights, before = model.get_weights(), np.asarray(model(token_ids))
    with scaled_logits(model, 0.5):
        scaled = np.asarray(model(token_ids))
    np.testing.assert_allclose(scaled, before * (1.0 if kind == "tied" else 0.5), rtol=1e-5, atol=1e-6)
    assert same(model.get_weights(), weights)


@pytest.mark.parametrize(("losses", "best"), [([3.0, 1.0, 2.0], 2), ([3.0, 2.0, 1.0], 3), ([1.0, 1.0, 1.0], 1)])
def test_the_epoch_with_the_lowest_loss_is_kept(tmp_path, losses, best):
    trainer, folder = start_loop(tmp_path / "m", losses, ema=0)
    watcher = Watcher()
    progress = trainer.run(folder, [watcher])
    assert (progress.best_epoch, progress.best.loss) == (best, losses[best - 1])
    kept = folder.load_best(progress)
    assert same([weight.numpy() for weight in kept.trainable_variables], watcher.weights[best - 1])
    assert not same(watcher.weights[0], watcher.weights[-1])


def test_without_validation_the_training_loss_decides_the_best_epoch(tmp_path, monkeypatch):
    trainer, folder = start(tmp_path / "m", validation=0)
    monkeypatch.setattr(trainer, "_train_epoch", lambda progress, *_: ([3.0, 1.0, 2.0][progress.epochs], 10))
    progress = trainer.run(folder)
    assert (progress.best_epoch, progress.best.validation_loss) == (2, None)


def spoil(trainer, part):
    """Make a loss or a weight non-finite from the second epoch on; return how the error must describe it."""
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
    calls, result = itertools.count(), float(value) if part == "training" else np.full(4, float(value))
    spoilt = lambda *a: (result, a[2]) if next(calls) >= first else function(*a)  # noqa: E731
    setattr(trainer.optimization, name, spoilt)
    return f"the {'validation ' * (part == 'validation')}loss is {value}"


@pytest.mark.parametrize("part", ["training", "validation", "weight"])
def test_a_non_finite_loss_or_weight_ends_the_training_with_advice(tmp_path, part):
    trainer, folder = start_loop(tmp_path / "m", ema=0, validation=0.1 if part == "validation" else 0)
    name = spoil(trainer, part)
    advice = r"lower --learning-rate \(now 0\.004\) or --clip-norm \(now 1\.0\)"
    with pytest.raises(TrainingFailed, match=f"^{name} in epoch 2; {advice}$"):
        trainer.run(folder)
    progress = folder.progress()
    assert progress.epochs == 1
    assert all(np.isfinite(weight.numpy()).all() for weight in folder.load_best(progress).weights)


class Clock:
    """A clock that advances by one second per call."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        self.now += 1
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(training, "time", clock)
    return clock


WHOLE = {"dropout": 0.4, "epochs": 4}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The progress and the display of an uninterrupted run with the settings WHOLE."""
    trainer, folder = start(tmp_path_factory.mktemp("whole") / "m", **WHOLE)
    watcher = Watcher()
    return trainer.run(folder, [watcher]), watcher


def test_evaluations_are_evenly_spaced_and_change_no_weight(tmp_path, whole):
    _, plain = whole
    trainer, folder = start(tmp_path / "m", **WHOLE)
    trainer.evaluations = 6
    evaluated = Watcher()
    trainer.run(folder, [evaluated])
    assert plain.evaluations == []
    num_updates = len(evaluated.fractions) // 4
    expected = [count / 6 for count in range(1, 6)]
    assert [fraction for _, fraction in evaluated.evaluations] == pytest.approx(expected, abs=1 / num_updates)
    assert all(0 < loss < 5 for loss, _ in evaluated.evaluations)
    for weights, others in zip(plain.weights, evaluated.weights, strict=True):
        assert same(weights, others)


@pytest.mark.usefixtures("clock")
def test_max_minutes_ends_the_training_within_an_epoch(tmp_path):
    """The shortened epoch counts, and the learning rate has reached its end by then."""
    trainer, folder = start_loop(tmp_path / "m", epochs=100, max_minutes=0.5)
    watcher = Watcher()
    progress = trainer.run(folder, [watcher])
    assert progress.epochs == 3
    assert 30 <= progress.last.seconds <= 35
    assert watcher.fractions[-1] > 0.9
    assert progress.last.tokens == pytest.approx(len(watcher.fractions) * 100, rel=0.1)


@pytest.mark.usefixtures("clock")
def test_max_minutes_without_epochs_trains_that_long(tmp_path):
    trainer, folder = start_loop(tmp_path / "m", epochs=None, max_minutes=3)
    watcher = Watcher()
    progress = trainer.run(folder, [watcher])
    assert progress.epochs > 10
    assert 180 <= progress.last.seconds <= 185
    # Time left and learning rate depend on the fraction: it rises steadily to its end.
    steps = np.diff(watcher.fractions)
    assert steps.min() > 0
    assert 0.9 < watcher.fractions[-1] <= 1


@pytest.mark.usefixtures("clock")
def test_training_ends_at_max_minutes_or_epochs_whichever_is_first(tmp_path):
    trainer, folder = start_loop(tmp_path / "m", epochs=2, max_minutes=30)
    assert trainer.run(folder).epochs == 2


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("minutes", [1e-6, 1e-320], ids=["short", "denormal"])
def test_a_run_makes_at_least_one_update(tmp_path, minutes):
    trainer, folder = start_loop(tmp_path / "m", max_minutes=minutes)
    watcher = Watcher()
    progress = trainer.run(folder, [watcher])
    assert (progress.epochs, watcher.fractions) == (1, [1.0])
    assert np.isfinite(progress.best.loss)


def test_max_minutes_includes_the_time_before_an_interruption(tmp_path, clock):
    """A resumed run trains no longer than an uninterrupted one; the time between does not count."""
    settings = {"epochs": 100, "max_minutes": 1.0}
    trainer, folder = start_loop(tmp_path / "m", **settings)
    with pytest.raises(KeyboardInterrupt):
        trainer.run(folder, [Watcher(at_epoch=interrupt(2))])
    spent = folder.progress().last.seconds
    assert 20 < spent < 40
    clock.now += 10_000
    watcher = Watcher()
    progress = fake_computation(prepare(**settings)[0]).run(folder, [watcher])
    assert 60 <= progress.last.seconds <= 65
    assert watcher.fractions[0] == pytest.approx(spent / 60, abs=0.1)
    again = Watcher()
    assert fake_computation(prepare(**settings)[0]).run(folder, [again]) == progress
    assert again.fractions == []


@pytest.mark.slow
@pytest.mark.parametrize("cell", [cell for cell in CELLS if cell != "lstm"])
def test_training_is_bit_exact_for_a_seed(tmp_path, cell):
    """The test of resumed runs shows it of an LSTM."""
    watchers = Watcher(), Watcher()
    for number, watcher in enumerate(watchers):
        trainer, folder = start(tmp_path / str(number), cell=cell, dropout=0.4, epochs=2)
        trainer.run(folder, [watcher])
    assert same(*(watcher.weights[-1] for watcher in watchers))


def test_initial_weights_batches_and_resets_differ_between_seeds(tmp_path):
    weights, batches, resets = [], [], []
    for seed in (7, 8):
        trainer, folder = start_loop(tmp_path / str(seed), seed=seed, epochs=1)
        weights.append(trainer.averaged_model.get_weights())
        update, given = trainer.optimization.update, []
        trainer.optimization.update = lambda *a, update=update, given=given: given.append(a) or update(*a)
        trainer.run(folder)
        batches.append([inputs for inputs, *_ in given])
        resets.append([kept for _, _, _, kept, _ in given])
    for values in (weights, batches, resets):
        assert not same(*values)


@pytest.mark.parametrize("moment", [pytest.param("epoch", marks=pytest.mark.slow), "window"])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, whole, moment):
    expected, uninterrupted = whole
    trainer, folder = start(tmp_path / "parts", **WHOLE)
    watcher = Watcher(at_epoch=interrupt(2)) if moment == "epoch" else Watcher(at_window=interrupt(26))
    with pytest.raises(KeyboardInterrupt):
        trainer.run(folder, [watcher])
    assert folder.progress().epochs == 2
    rest = Watcher()
    progress = prepare(**WHOLE)[0].run(RunFolder(folder.path), [rest])
    assert [epoch.loss for epoch in progress.history] == [epoch.loss for epoch in expected.history]
    assert same(rest.weights[-1], uninterrupted.weights[-1])


def test_an_interruption_is_checked_after_every_update_and_in_validation(tmp_path, monkeypatch):
    trainer, folder = start_loop(tmp_path / "m", epochs=1)
    asked = []
    monkeypatch.setattr("export.training.trainer.raise_if_interrupted", lambda: asked.append(len(watcher.losses)))
    watcher = Watcher()
    trainer.run(folder, [watcher])
    windows, judged = len(watcher.losses), trainer.dataset.validation.num_batches
    assert asked == [*range(1, windows + 1), *[windows] * (judged + 1)]


def test_early_stopping_ends_a_run_after_patience_epochs(tmp_path):
    """Counted without improvement in a row; resuming a run that has stopped early trains no further."""
    losses = [3.0, 2.0, 2.5, 2.1, 1.0, 1.0]
    trainer, folder = start_loop(tmp_path / "m", losses, epochs=6, patience=2)
    progress = trainer.run(folder)
    assert (progress.epochs, progress.best_epoch) == (4, 2)
    assert prepare(epochs=6, patience=2)[0].run(folder) == progress
    trainer, folder = start_loop(tmp_path / "n", losses, epochs=6, patience=3)
    assert trainer.run(folder).epochs == 6
