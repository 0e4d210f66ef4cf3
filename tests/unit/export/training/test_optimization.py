"""Updates do not depend on how a batch is partitioned; the averaged model follows the weights."""

import dataclasses
import functools

import numpy as np
import pytest
import tensorflow as tf

from contract.tokenizers import SpecialIds
from export.config import load_config
from export.training.devices import Compute, Devices
from export.training.model import build_model
from export.training.optimization import Optimization, precision_of
from tests.unit.export.trainings import SETTINGS

ROWS, STEPS, VOCABULARY, UNKNOWN = 8, 12, 11, 1
RNG = np.random.default_rng(0)
INPUTS, TARGETS = RNG.integers(0, VOCABULARY, (2, STEPS, ROWS)).astype(np.int32)
# Embeddings that are not much narrower than the vocabulary: the first layer reads one-hot vectors.
NARROW, WIDE = 4, 8
KEPT = np.ones((ROWS, 1), np.float32)
FLOAT32 = {"precision": "float32", "dropout": 0, "layers": 2}


def prepare(devices=None, **settings):
    config = load_config(None, {**SETTINGS, **FLOAT32, "batch_size": ROWS, **settings})
    devices = devices or Devices()
    with devices.strategy.scope():
        model = build_model(config, VOCABULARY)
    return Optimization(config, model, devices, SpecialIds(0, UNKNOWN, 2, None)), model


def train(optimization, updates=4, targets=TARGETS, rate=0.01):
    """Return the losses of some updates."""
    states, losses = optimization.zero_states(ROWS), []
    for _ in range(updates):
        loss, states = optimization.update(INPUTS, targets, states, KEPT, rate)
        losses.append(loss)
    return losses


def evaluate(optimization):
    return optimization.evaluate(INPUTS, TARGETS, optimization.zero_states(ROWS), 1.0)[0]


@dataclasses.dataclass(frozen=True)
class Partitioned(Devices):
    """Devices with a fixed partitioning of layers, however narrow."""

    parts: Compute = dataclasses.field(default_factory=Compute)

    def compute(self, *_):
        return self.parts


@functools.cache
def train_whole(cell):
    """Train and evaluate a model of a cell without partitioning."""
    optimization, _ = prepare(cell=cell, embedding=WIDE)
    return train(optimization), evaluate(optimization)


@pytest.mark.parametrize(
    ("cell", "parts"),
    [
        ("gru", {"row_parts": 3}),
        pytest.param("lstm", {"unit_parts": 4}, marks=pytest.mark.slow),
        *(pytest.param("lstm", {"row_parts": number}, marks=pytest.mark.slow) for number in (2, 3, 9)),
        *(pytest.param(cell, {"unit_parts": 2}, marks=pytest.mark.slow) for cell in ("lstm", "gru", "simple_rnn")),
        pytest.param("simple_rnn", {"row_parts": 3}, marks=pytest.mark.slow),
    ],
)
def test_partitioning_does_not_change_the_losses(cell, parts):
    expected, judged = train_whole(cell)
    optimization, _ = prepare(Partitioned(parts=Compute(**parts)), cell=cell, embedding=WIDE)
    np.testing.assert_allclose(train(optimization), expected, rtol=1e-5)
    np.testing.assert_allclose(evaluate(optimization), judged, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("parts", [{"row_parts": 3}, pytest.param({"unit_parts": 2}, marks=pytest.mark.slow)])
def test_dropout_does_not_depend_on_the_partitioning(parts):
    """Masks are sampled for the whole batch: a seed means the same on a machine with more or fewer cores."""
    dropouts = {"layers": 1, "dropout": 0.5, "recurrent_dropout": 0.3, "embedding_dropout": 0.2}
    whole, parted = (prepare(devices, **dropouts)[0] for devices in (None, Partitioned(parts=Compute(**parts))))
    np.testing.assert_allclose(train(parted), train(whole), rtol=1e-5)
    # Weights and state are the same for both: only the masks differ.
    zero = whole.zero_states(ROWS)
    one, other = (whole.update(INPUTS, TARGETS, zero, KEPT, 0.0)[0] for _ in range(2))
    assert one != pytest.approx(other, rel=1e-4)


@pytest.mark.slow
def test_partitioning_does_not_change_a_bidirectional_model():
    """Each of its directions is partitioned like any other layer."""
    settings = {"bidirectional": True, "context_length": STEPS}
    targets = TARGETS[:1]
    expected = train(prepare(**settings)[0], targets=targets)
    for parts in (Compute(unit_parts=2), Compute(row_parts=3)):
        got = train(prepare(Partitioned(parts=parts), **settings)[0], targets=targets)
        np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.parametrize("settings", [{"cell": "gru", "bidirectional": True, "context_length": STEPS}, {}], ids=str)
def test_kerass_layers_train_as_their_replacements_do(settings):
    """As on a GPU, here without cuDNN. The layers are the same afterwards, as they are saved with the model."""
    targets = TARGETS[:1] if settings else TARGETS
    expected = train(prepare(**settings)[0], targets=targets)
    optimization, model = prepare(Devices(on_gpu=True), **settings)
    before = model.get_config()
    np.testing.assert_allclose(train(optimization, targets=targets), expected, rtol=1e-5)
    assert model.get_config() == before


@pytest.mark.parametrize("embedding", [NARROW, WIDE], ids=["embeddings", "one-hot vectors"])
@pytest.mark.parametrize("cell", ["lstm", pytest.param("gru", marks=pytest.mark.slow)])
def test_an_update_equals_one_of_kerass_adamw(cell, embedding):
    """Whether the first layer reads embeddings or, as tokens are few, their product with its kernel."""
    import keras

    optimization, model = prepare(cell=cell, embedding=embedding, ema=0, clip_norm=0.05, activation_regularization=2.0)
    reference = keras.models.clone_model(model)
    reference.set_weights(model.get_weights())
    optimizer = keras.optimizers.AdamW(0.01, weight_decay=0.01, beta_1=0.7, beta_2=0.99)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    with tf.GradientTape() as tape:
        logits = reference(INPUTS.T)
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(TARGETS.T, logits))
        h = keras.Model(reference.input, reference.get_layer("recurrent_1").output)(INPUTS.T)
        penalty = tf.reduce_mean(h**2) + tf.reduce_mean((h[:, 1:] - h[:, :-1]) ** 2) * (STEPS - 1) / STEPS
        regularized = loss + 2.0 * penalty
    gradients = tape.gradient(regularized, reference.trainable_variables)
    gradients, norm = tf.clip_by_global_norm([tf.convert_to_tensor(gradient) for gradient in gradients], 0.05)
    assert norm > 0.05
    optimizer.apply(gradients, reference.trainable_variables)
    assert train(optimization, updates=1) == [pytest.approx(float(loss), rel=1e-5)]
    for got, expected in zip(model.trainable_variables, reference.trainable_variables, strict=True):
        # Where a gradient is close to zero, Adam's step depends on its sign alone: rounding decides.
        np.testing.assert_allclose(got, expected, atol=1e-3)
        assert np.abs(got - expected).mean() < 1e-5


def test_a_reset_sequence_starts_from_the_zero_state():
    optimization, _ = prepare()
    zeros = optimization.zero_states(ROWS)
    ones = tf.nest.map_structure(tf.ones_like, zeros)
    half = np.repeat(np.float32([[1], [0]]), ROWS // 2, axis=0)
    mixed = tf.nest.map_structure(lambda part: part * half, ones)
    # With a learning rate of 0 the weights stay.
    reset, zero, kept = (
        optimization.update(INPUTS, TARGETS, states, kept, 0.0)[0]
        for states, kept in ((ones, half), (mixed, KEPT), (ones, KEPT))
    )
    assert reset == zero
    assert reset != kept


def test_the_decay_of_the_averaged_weights_rises_to_its_setting():
    optimization, model = prepare(ema=0.25)
    kernel, average = (m.get_layer("logits").kernel for m in (model, optimization.averaged))
    expected = kernel.numpy()
    for decay in (2 / 11, 0.25, 0.25):
        optimization.update(INPUTS, TARGETS, optimization.zero_states(ROWS), KEPT, 0.1)
        expected = decay * expected + (1 - decay) * kernel.numpy()
        np.testing.assert_allclose(average, expected, rtol=1e-5, atol=1e-6)
    logits = optimization.averaged(INPUTS.T)
    each = tf.nn.sparse_softmax_cross_entropy_with_logits(TARGETS.T, logits).numpy()
    assert evaluate(optimization)[0] == pytest.approx(each[TARGETS.T != UNKNOWN].sum(), rel=1e-4)


def test_without_averaging_the_model_itself_is_evaluated():
    optimization, model = prepare(ema=0)
    assert optimization.averaged is model


def test_hits_are_the_known_tokens_that_were_most_probable():
    """An unknown token is no hit, even where the model predicts it."""
    optimization, model = prepare(ema=0)
    favorite = 5
    for weight in model.weights:
        weight.assign(tf.zeros_like(weight))
    model.get_layer("logits").bias.assign(np.eye(VOCABULARY)[favorite])
    assert evaluate(optimization)[3] == (favorite == TARGETS).sum()
    model.get_layer("logits").bias.assign(np.eye(VOCABULARY)[UNKNOWN])
    assert evaluate(optimization)[3] == 0


@pytest.mark.parametrize(
    ("setting", "on_gpu", "has", "precision"),
    [
        ("auto", False, True, "bfloat16"),
        ("auto", False, False, "float32"),
        ("auto", True, True, "float32"),
        ("float32", False, True, "float32"),
        ("bfloat16", False, False, "bfloat16"),
    ],
)
def test_the_precision_is_the_setting_or_what_the_cpu_supports(monkeypatch, setting, on_gpu, has, precision):
    """`auto` never makes training slower."""
    monkeypatch.setattr("export.training.optimization.multiplies_bfloat16", lambda: has)
    config = load_config(None, {**SETTINGS, "precision": setting})
    assert precision_of(config, Devices(on_gpu=on_gpu)) == precision


def test_bfloat16_trains_as_well_as_float32():
    exact, rounded = (train(prepare(precision=each)[0], updates=25, rate=0.05) for each in ("float32", "bfloat16"))
    assert exact != rounded
    assert exact[-1] < 0.8 * exact[0]
    np.testing.assert_allclose(rounded, exact, rtol=0.1)
