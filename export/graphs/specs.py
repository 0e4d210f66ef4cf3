"""The inputs of each signature: names, types and shapes, as `docs/architecture.md` lists them."""

import tensorflow as tf

from contract import signatures

Specs = dict[str, tf.TensorSpec]


def input_specs(state_size: int, output_size: int) -> dict[str, Specs]:
    """Return the inputs of every signature.

    Args:
        state_size: S, floats of state per sequence.
        output_size: U, width of the top layer's output.
    """
    state = _inputs(tf.float32, [None, state_size], "state")
    texts = _inputs(tf.int32, [None, None], "token_ids")
    reading = {**texts, **_inputs(tf.int32, [None], "lengths"), **state}
    drawing = {
        **state,
        **_inputs(tf.int32, [None], "token_id", "steps", "top_k"),
        **_inputs(tf.float32, [None], "temperature", "top_p", "min_p"),
        **_inputs(tf.float32, [None, None], "uniforms"),
    }
    adjusting = {
        **_inputs(tf.int32, [None, None], "adjusted_ids"),
        **_inputs(tf.float32, [None, None], "counts", "seen", "bias"),
        **_inputs(tf.float32, [None], "presence_penalty", "frequency_penalty", "repetition_penalty"),
        **_inputs(tf.int32, [None], "min_steps"),
    }
    return {
        signatures.SERVING_DEFAULT: texts,
        signatures.PREFILL: reading,
        signatures.DECODE: drawing,
        signatures.DECODE_FULL: {**drawing, **adjusting},
        signatures.SCORE: reading,
        signatures.INSPECT: reading,
        signatures.EMBED: {**reading, **_inputs(tf.float32, [None, output_size], "sum")},
    }


def _inputs(kind: tf.DType, shape: list[int | None], *names: str) -> Specs:
    return {name: tf.TensorSpec(shape, kind, name=name) for name in names}
