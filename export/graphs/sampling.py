"""Sampling in the graph: temperature, top-k, top-p, min-p and inverse transform sampling.

Pure functions of logits and of uniform random numbers from the caller. Sequences are independent, and a disabled filter
is a bit-exact no-op: the token of a sequence never depends on the parameters of others in the batch.
"""

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from contract.signatures import GREEDY_BELOW_TEMPERATURE

# Numbers of most probable tokens that are sorted before falling back to the whole vocabulary.
NUM_CANDIDATES = (128, 1024)


class Controls(NamedTuple):
    """Sampling parameters of a batch, each (batch,).

    Attributes:
        temperature: float32; below `GREEDY_BELOW_TEMPERATURE` sampling is greedy.
        top_k: int32; keep the k most probable tokens. 0 or less is off.
        top_p: float32; keep the smallest set of most probable tokens with this share of the mass that top_k left. 1 or
            more is off.
        min_p: float32; drop tokens less probable than this times the most probable one. 0 or less is off.
    """

    temperature: tf.Tensor
    top_k: tf.Tensor
    top_p: tf.Tensor
    min_p: tf.Tensor


class Prepared(NamedTuple):
    """Values that are constant over the steps of a call.

    Attributes:
        controls: Sampling parameters of each sequence.
        uniforms: float32 (T, batch): the random numbers of each step; 0 for greedy sampling.
        scale: float32 (batch, 1): reciprocal temperatures; for greedy sampling so large that the weight of every token
            but the most probable one is 0.
        filtered: Bool (batch,): whether any filter is on.
        any_filtered: Bool.
    """

    controls: Controls
    uniforms: tf.Tensor
    scale: tf.Tensor
    filtered: tf.Tensor
    any_filtered: tf.Tensor


def prepare(controls: Controls, uniforms: tf.Tensor) -> Prepared:
    """Compute once for a call what `sample` needs in every step; uniforms are float32 (batch, T) in [0, 1)."""
    filtered = (controls.top_k > 0) | (controls.top_p < 1.0) | (controls.min_p > 0.0)
    is_greedy = controls.temperature < GREEDY_BELOW_TEMPERATURE
    scale = tf.where(is_greedy, tf.float32.max, 1.0 / controls.temperature)[:, None]
    by_time = tf.transpose(tf.where(is_greedy[:, None], 0.0, uniforms))
    return Prepared(controls, by_time, scale, filtered, tf.reduce_any(filtered))


def sample(t: tf.Tensor, logits: tf.Tensor, sampling: Prepared) -> tf.Tensor:
    """Sample one token per sequence.

    Args:
        t: int32: the step.
        logits: float32 (batch, V); -1e9 for masked ids.
        sampling: As `prepare` returns it.

    Returns:
        int32 (batch,).
    """
    uniforms, vocab_size = sampling.uniforms[t], logits.shape[1]
    weights = _weights(logits, sampling.scale)
    cumulative = tf.cumsum(weights, axis=1)
    sampled = _inverse_cdf(cumulative, uniforms)

    def with_filters() -> tf.Tensor:
        probabilities = weights[:, :vocab_size] / cumulative[:, -1:]
        # The result is not used for a sequence without filters: one candidate is enough.
        top_k = tf.where(sampling.filtered, sampling.controls.top_k, 1)
        filtered = _sample_filtered(probabilities, uniforms, sampling.controls._replace(top_k=top_k), NUM_CANDIDATES)
        return tf.where(sampling.filtered, filtered, sampled)

    return tf.cond(sampling.any_filtered, with_filters, lambda: sampled)


def _weights(logits: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
    """Return the weights of tokens, float32 (batch, V or V + 1), that of the most probable one 1.

    TensorFlow computes eight exponentials at a time, and a tensor's last ones, fewer than eight, by a function that
    rounds differently. If V is odd, a weight of 0 is added, so that four sequences fill whole vectors.
    """
    if logits.shape[1] % 2:
        logits = tf.pad(logits, [[0, 0], [0, 1]], constant_values=tf.float32.min)
    # Subtract the maximum first: a logit divided by a small temperature would overflow.
    return tf.exp((logits - tf.reduce_max(logits, axis=1, keepdims=True)) * scale)


def _inverse_cdf(cumulative: tf.Tensor, uniforms: tf.Tensor) -> tf.Tensor:
    """Return the first index whose cumulative weight exceeds uniform · total, never one of weight 0.

    `<=` matters: with `<`, a uniform of 0 would pick index 0 even where its weight is 0. The product is below the total
    for every float32 uniform below 1 - 2⁻²⁵, so the result is below V.
    """
    threshold = uniforms * cumulative[:, -1]
    return tf.reduce_sum(tf.cast(cumulative <= threshold[:, None], tf.int32), axis=1)


def _sample_filtered(
    probabilities: tf.Tensor, uniforms: tf.Tensor, controls: Controls, num_candidates: Sequence[int]
) -> tf.Tensor:
    """Sample among the tokens that pass the filters, in descending order of probability.

    Only the most probable tokens are sorted. If a sequence's filters may keep more of them, it is sampled again with
    the next of `num_candidates`, and finally with the whole vocabulary, independently of other sequences.
    """
    vocab_size = probabilities.shape[1]
    few, *more = [number for number in num_candidates if number < vocab_size] or [vocab_size]
    tokens, may_keep_others = _sample_candidates(probabilities, uniforms, controls, few)
    if few == vocab_size:
        return tokens

    def with_more_candidates() -> tf.Tensor:
        rows = tf.where(may_keep_others)
        again = [tf.gather_nd(each, rows) for each in (probabilities, uniforms, *controls)]
        return tf.tensor_scatter_nd_update(
            tokens, rows, _sample_filtered(again[0], again[1], Controls(*again[2:]), more)
        )

    return tf.cond(tf.reduce_any(may_keep_others), with_more_candidates, lambda: tokens)


def _sample_candidates(
    probabilities: tf.Tensor, uniforms: tf.Tensor, controls: Controls, num_candidates: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Sample among the most probable tokens, in descending order of probability.

    The result for a sequence must not depend on the batch size. Therefore every sum comes from `tf.cumsum`, which adds
    in order.

    Returns:
        int32 (batch,): the tokens.
        Bool (batch,): whether the filters may keep tokens beyond the candidates. If so, the sampled token is invalid.
    """
    vocab_size = probabilities.shape[1]
    ordered, token_ids = tf.math.top_k(probabilities, k=num_candidates)
    rank = tf.range(num_candidates)[None, :]
    limit = tf.where(controls.top_k > 0, tf.minimum(controls.top_k, vocab_size), vocab_size)
    ordered = tf.where(rank < limit[:, None], ordered, 0.0)
    before = tf.cumsum(ordered, axis=1, exclusive=True)
    mass = tf.where(limit < vocab_size, before[:, -1] + ordered[:, -1], 1.0)
    in_nucleus = (before < (controls.top_p * mass)[:, None]) | (controls.top_p >= 1.0)[:, None]
    likely = ordered >= (controls.min_p * ordered[:, 0])[:, None]
    # Always keep the most probable token, even with top_p = 0 or rounding errors.
    is_kept = (in_nucleus & likely) | (rank == 0)
    kept = tf.cumsum(tf.where(is_kept, ordered, 0.0), axis=1)
    tokens = tf.gather(token_ids, _inverse_cdf(kept, uniforms), batch_dims=1)
    # The filters keep a prefix. If top_k exceeds the candidates, the mass of the tokens that it keeps is unknown.
    return tokens, (limit > num_candidates) & ((limit < vocab_size) | is_kept[:, -1])
