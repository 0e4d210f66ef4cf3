"""Runs Keras's own recurrent layers over a BPTT window; they use cuDNN on a GPU. On a CPU `sequence` is faster."""

from collections.abc import Sequence

import keras
import tensorflow as tf


def run_keras_layer(
    layer: keras.layers.Layer, inputs: tf.Tensor, state: Sequence[tf.Tensor]
) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """Run a layer that returns no state; the result is that of `export.training.sequence.run_layer`.

    Recurrent dropout is ignored: cuDNN has none. The inputs are float32 (T, B, D), the state [h] or, for LSTM, [h, c],
    float32 (B, H) each.
    """
    # A layer returns its state only if built with `return_state`, which Keras would save with the model: hence a twin.
    settings = {"return_sequences": True, "return_state": True, "recurrent_dropout": 0.0, "name": f"{layer.name}_twin"}
    twin = type(layer).from_config({**layer.get_config(), **settings})
    twin.build((None, None, inputs.shape[-1]))
    weights = [variable.value for variable in layer.trainable_variables]
    others = [variable.value for variable in twin.non_trainable_variables]
    batch_major = tf.transpose(inputs, [1, 0, 2])
    initial = list(state) if len(state) > 1 else state[0]
    (outputs, *last), _ = twin.stateless_call(weights, others, batch_major, initial_state=initial, training=False)
    return tf.transpose(outputs, [1, 0, 2]), [tf.stop_gradient(part) for part in last]
