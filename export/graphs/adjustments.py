"""Logits processing before sampling: masked ids, penalties, logit bias and a minimum number of tokens.

Pure functions of the logits and of tables that the loop carries from step to step. Sequences are independent, and a
disabled adjustment is a bit-exact no-op: dividing by 1 and adding 0 change no bit.
"""

from dataclasses import dataclass

import tensorflow as tf

from export.graphs.loop import Loop

NEVER = -1e9


@dataclass(frozen=True)
class Masked:
    """Logits processing that only masks ids.

    Attributes:
        mask: float32 (V,): `NEVER` for ids that must not be sampled, 0 for the others.
    """

    mask: tf.Tensor

    def tables(self) -> Loop:
        """Return the initial tables for `adjust`, as loop variables."""
        return []

    def adjust(self, t: tf.Tensor, logits: tf.Tensor, tables: Loop) -> tf.Tensor:  # noqa: ARG002 - the same at any t
        """Return the adjusted logits float32 (batch, V) of step t."""
        return logits + self.mask

    def count(self, sampled: tf.Tensor, tables: Loop) -> Loop:  # noqa: ARG002 - nothing is counted
        """Return the tables for the next step, after the sampled ids int32 (batch,)."""
        return tables


@dataclass(frozen=True)
class Adjustments(Masked):
    """Penalties, logit bias and a minimum number of steps before the end token.

    Order: the logit of a token in the prompt or output is divided by the repetition penalty if positive, else
    multiplied by it (https://arxiv.org/abs/1909.05858 always divides, which would favour improbable tokens). Then
    presence penalty · [count > 0] and frequency penalty · count are subtracted, with counts of the output alone
    (https://platform.openai.com/docs/api-reference/completions). Then the bias and the mask are added.

    The lists have N entries per sequence: distinct ids, then padding of id 0 and value 0.

    Attributes:
        end_id: Id of the end token; -1 for a model without one.
        token_ids: int32 (batch, N): ids with any value below that is not 0.
        counts: float32 (batch, N): how often each id was sampled so far.
        seen: float32 (batch, N): 1 if the id is in the prompt or output so far, else 0.
        bias: float32 (batch, N).
        presence_penalty: float32 (batch,); 0 is off.
        frequency_penalty: float32 (batch,); 0 is off.
        repetition_penalty: float32 (batch,), above 0; 1 is off.
        min_steps: int32 (batch,): number of steps of this call in which the end token cannot be sampled.
    """

    end_id: int
    token_ids: tf.Tensor
    counts: tf.Tensor
    seen: tf.Tensor
    bias: tf.Tensor
    presence_penalty: tf.Tensor
    frequency_penalty: tf.Tensor
    repetition_penalty: tf.Tensor
    min_steps: tf.Tensor

    def tables(self) -> Loop:
        """Return the initial counts, biases plus mask, and divisors, float32 (batch, V) each."""
        batch, length = tf.shape(self.token_ids)[0], tf.shape(self.token_ids)[1]
        rows = tf.repeat(tf.range(batch)[:, None], length, axis=1)
        indices = tf.stack([rows, self.token_ids], axis=2)
        shape = [batch, self.mask.shape[0]]
        counts, seen, bias = (tf.scatter_nd(indices, values, shape) for values in (self.counts, self.seen, self.bias))
        return [counts, bias + self.mask, tf.where(seen > 0.0, self.repetition_penalty[:, None], 1.0)]

    def adjust(self, t: tf.Tensor, logits: tf.Tensor, tables: Loop) -> tf.Tensor:
        """Return the adjusted logits float32 (batch, V) of step t."""
        counts, bias, divisors = tables
        logits = tf.where(logits > 0.0, logits / divisors, logits * divisors)
        logits -= self.presence_penalty[:, None] * tf.cast(counts > 0.0, tf.float32)
        logits -= self.frequency_penalty[:, None] * counts
        logits += bias
        if self.end_id >= 0:
            too_early = tf.where(t < self.min_steps, NEVER, 0.0)
            logits += too_early[:, None] * tf.one_hot(self.end_id, self.mask.shape[0])
        return logits

    def count(self, sampled: tf.Tensor, tables: Loop) -> Loop:
        """Return the tables for the next step; a finished sequence counts id 0, which has no effect."""
        counts, bias, divisors = tables
        one_hot = tf.one_hot(sampled, self.mask.shape[0])
        return [counts + one_hot, bias, tf.where(one_hot > 0.0, self.repetition_penalty[:, None], divisors)]
