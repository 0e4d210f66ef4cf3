"""Inputs of each signature: names, dtypes and shapes, as listed in `docs/architecture.md`."""

from collections.abc import Iterable

import tensorflow as tf

from contract import signatures

Specs = dict[str, tf.TensorSpec]


def input_specs(
    state_size: int,
    output_size: int,
    vocab_size: int,
    precisions: Iterable[signatures.PrecisionName] = (signatures.FLOAT32,),
) -> dict[str, Specs]:
    """Return the input specs of every signature.

    - `state`: before the first token.
    - `token_ids`: padded at the end, with T tokens to process. `score` and `inspect` have one more: each token is
      scored by the state before it, and the last one is not processed.
    - `lengths`: number of tokens to process without padding; 0 leaves the state unchanged.
    - `sum`: of the top layer's outputs at the tokens of previous calls.
    - `token_id`: the last token of each sequence, not yet processed.
    - `uniforms`: in [0, 1), one per step.
    - `steps`: tokens to sample, 0 to K.
    - `num_top`: number of top log probabilities that a sequence needs.
    - `num_ahead`: steps of expansions.
    - `logprob`: log probability of each sequence among those of the call.

    The others are those of `sampling.Controls`, `adjustments.Adjustments` and `adjustments.Constraints`.

    Args:
        state_size: S, floats of state per sequence.
        output_size: U, width of the top layer's output.
        vocab_size: V, width of the output layer.
        precisions: Those that the version has signatures for.
    """
    state = _inputs(tf.float32, [None, state_size], "state")
    token_ids = _inputs(tf.int32, [None, None], "token_ids")
    prefill = {**token_ids, **_inputs(tf.int32, [None], "lengths"), **state}
    decode = {
        **state,
        **_inputs(tf.int32, [None], "token_id", "steps", "top_k"),
        **_inputs(tf.float32, [None], "temperature", "top_p", "min_p"),
        **_inputs(tf.float32, [None, None], "uniforms"),
    }
    adjustments = {
        **_inputs(tf.int32, [None, None], "adjusted_ids"),
        **_inputs(tf.float32, [None, None], "counts", "seen", "bias"),
        **_inputs(tf.float32, [None], "presence_penalty", "frequency_penalty", "repetition_penalty"),
        **_inputs(tf.int32, [None], "min_steps"),
    }
    constraints = {
        **_inputs(tf.int32, [None, vocab_size], "transitions"),
        **_inputs(tf.int32, [None], "continuations", "row", "budget"),
    }
    search = {
        **_inputs(tf.int32, [None], "num_ahead", "row"),
        **_inputs(tf.float32, [None], "logprob"),
        **_inputs(tf.int32, [None, vocab_size], "transitions"),
    }
    num_top = _inputs(tf.int32, [None], "num_top")
    variants = {
        signatures.PREFILL: prefill,
        signatures.DECODE: decode,
        signatures.DECODE_FULL: {**decode, **adjustments, **constraints, **num_top},
        signatures.SCORE: {**prefill, **num_top},
        signatures.INSPECT: prefill,
        signatures.NEXT_LOGPROBS: {**prefill, **search},
        signatures.EMBED: {**prefill, **_inputs(tf.float32, [None, output_size], "sum")},
    }
    by_name = {
        signatures.in_precision(name, precision): specs for precision in precisions for name, specs in variants.items()
    }
    return {signatures.SERVING_DEFAULT: token_ids, **by_name}


def _inputs(kind: tf.DType, shape: list[int | None], *names: str) -> Specs:
    return {name: tf.TensorSpec(shape, kind, name=name) for name in names}
