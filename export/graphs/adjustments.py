"""What changes the logits before a token is drawn: ids that never come, penalties, a bias, an end that must wait.

Pure functions of the logits and of tables that the loop carries from step to step. Rows are independent, and what is
off is an exact no-op for its row: dividing by 1 and adding 0 change no bit.
"""

from dataclasses import dataclass

import tensorflow as tf

from export.graphs.loop import Loop

NEVER = -1e9


@dataclass(frozen=True)
class Masked:
    """The least of adjustments: ids that are never drawn.

    Attributes:
        mask: float32 (V,): `NEVER` for those ids and 0 for the others.
    """

    mask: tf.Tensor

    def tables(self) -> Loop:
        """Return what the loop carries for `adjust`, as it is before the first step."""
        return []

    def adjust(self, t: tf.Tensor, logits: tf.Tensor, tables: Loop) -> tf.Tensor:  # noqa: ARG002 - the same at any t
        """Change the logits float32 (batch, V) of step t."""
        return logits + self.mask

    def count(self, drawn: tf.Tensor, tables: Loop) -> Loop:  # noqa: ARG002 - nothing is counted
        """Return the tables for the next step, after int32 (batch,) was drawn."""
        return tables


@dataclass(frozen=True)
class Adjustments(Masked):
    """Penalties on what was there before, a logit bias and a least number of steps before the end mark.

    In this order: a token that stands in prompt or output has its logit divided by the repetition penalty if it is
    positive and multiplied by it if not (https://arxiv.org/abs/1909.05858, which divides whatever the sign and so would
    favour improbable tokens); presence penalty · [count > 0] and frequency penalty · count are taken off, with counts
    of the output alone (https://platform.openai.com/docs/api-reference/completions); the bias is added, and the mask.

    The lists have N entries a row: distinct ids, then padding of id 0 and value 0.

    Attributes:
        end_id: The end mark, or -1 for a model without one.
        token_ids: int32 (batch, N), those ids of the row for which anything is not 0.
        counts: float32 (batch, N): how often each was drawn so far.
        seen: float32 (batch, N): 1 if it stands in prompt or output so far, else 0.
        bias: float32 (batch, N).
        presence_penalty: float32 (batch,); 0 is off, as for the next.
        frequency_penalty: float32 (batch,).
        repetition_penalty: float32 (batch,), above 0; 1 is off.
        min_steps: int32 (batch,): steps of this call in which the end mark cannot be drawn.
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
        """Return counts, biases with the mask, and divisors, float32 (batch, V) each."""
        batch, length = tf.shape(self.token_ids)[0], tf.shape(self.token_ids)[1]
        rows = tf.repeat(tf.range(batch)[:, None], length, axis=1)
        places = tf.stack([rows, self.token_ids], axis=2)
        shape = [batch, self.mask.shape[0]]
        counts, seen, bias = (tf.scatter_nd(places, values, shape) for values in (self.counts, self.seen, self.bias))
        return [counts, bias + self.mask, tf.where(seen > 0.0, self.repetition_penalty[:, None], 1.0)]

    def adjust(self, t: tf.Tensor, logits: tf.Tensor, tables: Loop) -> tf.Tensor:
        """Change the logits float32 (batch, V) of step t."""
        counts, bias, divisors = tables
        logits = tf.where(logits > 0.0, logits / divisors, logits * divisors)
        logits -= self.presence_penalty[:, None] * tf.cast(counts > 0.0, tf.float32)
        logits -= self.frequency_penalty[:, None] * counts
        logits += bias
        if self.end_id >= 0:
            too_early = tf.where(t < self.min_steps, NEVER, 0.0)
            logits += too_early[:, None] * tf.one_hot(self.end_id, self.mask.shape[0])
        return logits

    def count(self, drawn: tf.Tensor, tables: Loop) -> Loop:
        """Return the tables for the next step; a row that has ended counts id 0, which changes nothing any more."""
        counts, bias, divisors = tables
        hot = tf.one_hot(drawn, self.mask.shape[0])
        return [counts + hot, bias, tf.where(hot > 0.0, self.repetition_penalty[:, None], divisors)]
