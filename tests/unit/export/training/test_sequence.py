"""Training layers have the outputs, states and gradients of Keras's layers."""

import numpy as np
import pytest
import tensorflow as tf

from export.graphs.network import CELLS
from export.training.model import run_keras_layer
from export.training.sequence import run_layer

T, B, D, H = 9, 4, 5, 6


@pytest.fixture(params=CELLS)
def cell(request):
    return request.param


def prepare(cell):
    """Return a Keras layer with random weights, inputs (B, T, D), a state, and a direction to differentiate in."""
    rng = np.random.default_rng(0)
    layer = CELLS[cell](H, return_sequences=True, return_state=True)
    layer.build((B, T, D))
    for weight in layer.weights:
        weight.assign(rng.normal(0, 0.4, weight.shape))
    state = [tf.constant(rng.normal(0, 1, (B, H)), tf.float32) for _ in range(2 if cell == "lstm" else 1)]
    return layer, tf.constant(rng.normal(0, 1, (B, T, D)), tf.float32), state, rng.normal(0, 1, (B, T, H))


def outcome(run, layer, inputs, state, direction):
    weights = [variable.value for variable in layer.trainable_variables]
    with tf.GradientTape() as tape:
        tape.watch([inputs, *state])
        outputs, last = run(inputs, state, weights)
        loss = tf.reduce_sum(outputs * tf.constant(direction, tf.float32))
    return [outputs, *last, *tape.gradient(loss, [inputs, *state, *weights])]


@pytest.mark.parametrize("parts", [1, 2, 4, None], ids=["whole", "2 parts", "4 parts", "on a GPU"])
def test_outputs_states_and_gradients_equal_those_of_keras(cell, parts):
    layer, inputs, state, direction = prepare(cell)

    def keras_run(inputs, state, _):
        outputs, *last = layer(inputs, initial_state=state if len(state) > 1 else state[0])
        return outputs, last

    def own_run(inputs, state, weights):
        by_time = tf.transpose(inputs, [1, 0, 2])
        if parts is None:
            outputs, last = run_keras_layer(layer, by_time, state)
        else:
            outputs, last = run_layer(cell, by_time, state, weights, parts=parts)
        return tf.transpose(outputs, [1, 0, 2]), last

    expected = outcome(keras_run, layer, inputs, state, direction)
    for got, wanted in zip(outcome(own_run, layer, inputs, state, direction), expected, strict=True):
        np.testing.assert_allclose(got, wanted, atol=2e-5, rtol=1e-4)


def test_no_gradient_flows_through_the_carried_state(cell):
    """Truncated BPTT: backpropagation ends at the beginning of the current sequence."""
    layer, inputs, state, _ = prepare(cell)
    weights = [variable.value for variable in layer.trainable_variables]
    by_time = tf.transpose(inputs, [1, 0, 2])
    with tf.GradientTape() as tape:
        tape.watch(by_time)
        _, between = run_layer(cell, by_time, state, weights)
        loss = tf.add_n([tf.reduce_sum(part) for part in between])
    assert tape.gradient(loss, by_time) is None


def step_by_step(cell, inputs, state, weights, mask):
    """Compute a layer from its equations, time first; TensorFlow derives the gradients."""
    kernel, recurrent_kernel, bias = weights
    outputs = []
    for x in tf.unstack(inputs):
        seen = state[0] * mask
        if cell == "simple_rnn":
            state = [tf.tanh(x @ kernel + seen @ recurrent_kernel + bias)]
        elif cell == "lstm":
            i, f, g, o = tf.split(x @ kernel + seen @ recurrent_kernel + bias, 4, axis=1)
            c = tf.sigmoid(f) * state[1] + tf.sigmoid(i) * tf.tanh(g)
            state = [tf.sigmoid(o) * tf.tanh(c), c]
        else:
            xz, xr, xh = tf.split(x @ kernel + bias[0], 3, axis=1)
            hz, hr, hh = tf.split(seen @ recurrent_kernel + bias[1], 3, axis=1)
            z = tf.sigmoid(xz + hz)
            state = [z * state[0] + (1 - z) * tf.tanh(xh + tf.sigmoid(xr + hr) * hh)]
        outputs.append(state[0])
    return tf.stack(outputs), state


@pytest.mark.parametrize("parts", [1, 2])
def test_recurrent_dropout_masks_the_input_of_the_gates_not_the_state(cell, parts):
    """One mask serves all steps; gradients agree with those of the equations too."""
    layer, inputs, state, direction = prepare(cell)
    mask = tf.constant(np.random.default_rng(1).integers(0, 2, (B, H)) * 2.0, tf.float32)
    by_time, by_time_direction = tf.transpose(inputs, [1, 0, 2]), direction.swapaxes(0, 1)

    def expected(inputs, state, weights):
        return step_by_step(cell, inputs, state, weights, mask)

    def own(inputs, state, weights):
        return run_layer(cell, inputs, state, weights, mask, parts=parts)

    wanted = outcome(expected, layer, by_time, state, by_time_direction)
    for got, right in zip(outcome(own, layer, by_time, state, by_time_direction), wanted, strict=True):
        np.testing.assert_allclose(got, right, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("rows", [0, 1])
def test_a_batch_may_have_one_sequence_or_none(cell, rows):
    """A replica's share of a small batch; its graph is of that batch size alone."""
    layer, inputs, state, direction = prepare(cell)
    by_time, state = tf.transpose(inputs[:rows], [1, 0, 2]), [part[:rows] for part in state]
    by_time_direction = direction[:rows].swapaxes(0, 1)

    def run(inputs, state, weights):
        return run_layer(cell, inputs, state, weights)

    @tf.function(autograph=False)
    def graph(inputs, state):
        return outcome(run, layer, inputs, state, by_time_direction)

    expected = outcome(run, layer, by_time, state, by_time_direction)
    for got, wanted in zip(graph(by_time, state), expected, strict=True):
        assert got.shape == wanted.shape
        np.testing.assert_allclose(got, wanted, atol=2e-5, rtol=1e-4)


def test_bfloat16_products_deviate_by_less_than_five_percent(cell):
    """Factors and results of products are rounded to 8 bits; outputs and gradients are still float32."""
    layer, inputs, state, direction = prepare(cell)
    by_time, by_time_direction = tf.transpose(inputs, [1, 0, 2]), direction.swapaxes(0, 1)

    def run(precision):
        return lambda inputs, state, weights: run_layer(cell, inputs, state, weights, precision=precision)

    exact = outcome(run(tf.float32), layer, by_time, state, by_time_direction)
    rounded = outcome(run(tf.bfloat16), layer, by_time, state, by_time_direction)
    for got, wanted in zip(rounded, exact, strict=True):
        assert got.dtype == tf.float32
        difference = np.abs(got - wanted).max() / np.abs(wanted).max()
        assert 0 < difference < 0.05
