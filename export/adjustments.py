"""What changes the logits before a token is drawn: ids that never come, penalties, a bias, an end that must wait.

Pure functions of the logits and of tables that the loop carries from step to step. Rows are independent, and what is
off is an exact no-op for its row: dividing by 1 and adding 0 change no bit.
"""

from dataclasses import dataclass

import tensorflow as tf

from export.loop import Loop

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

    def adjust(self, logits: tf.Tensor, tables: Loop) -> tf.Tensor:  # noqa: ARG002 - there are none
        """Change the logits float32 (batch, V) of a step."""
        return logits + self.mask

    def count(self, t: tf.Tensor, drawn: tf.Tensor, tables: Loop) -> Loop:  # noqa: ARG002 - nothing is counted
        """Return the tables for step t + 1, after int32 (batch,) was drawn in step t."""
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
        """Return offsets, counts, biases and divisors, float32 (batch, V) each."""
        at = self._at(self.token_ids)
        shape = tf.stack([tf.shape(self.token_ids)[0], tf.shape(self.mask)[0]])
        counts, seen, bias = (tf.scatter_nd(at, values, shape) for values in (self.counts, self.seen, self.bias))
        offsets = self._offsets(counts, bias) + self.mask
        divisors = tf.where(seen > 0.0, self.repetition_penalty[:, None], 1.0)
        if self.end_id >= 0:
            # One place a row, also where the lists are empty.
            end = tf.fill(tf.stack([tf.shape(self.token_ids)[0], 1]), self.end_id)
            offsets = self._refresh(tf.constant(0), end, offsets, counts, bias)
        return [offsets, counts, bias, divisors]

    def adjust(self, logits: tf.Tensor, tables: Loop) -> tf.Tensor:
        """Change the logits float32 (batch, V) of a step."""
        offsets, _, _, divisors = tables
        return tf.where(logits > 0.0, logits / divisors, logits * divisors) + offsets

    def count(self, t: tf.Tensor, drawn: tf.Tensor, tables: Loop) -> Loop:
        """Return the tables for step t + 1; a row that has ended counts id 0, which changes nothing any more.

        Only the entries that change are computed, which at 10,000 words saves much (measured: `docs/log.md`).
        """
        offsets, counts, bias, divisors = tables
        drawn = drawn[:, None]
        at = self._at(drawn)
        counts = tf.tensor_scatter_nd_add(counts, at, tf.ones_like(drawn, tf.float32))
        divisors = tf.tensor_scatter_nd_update(divisors, at, self.repetition_penalty[:, None])
        changed = drawn if self.end_id < 0 else tf.concat([drawn, tf.fill(tf.shape(drawn), self.end_id)], axis=1)
        return [self._refresh(t + 1, changed, offsets, counts, bias), counts, bias, divisors]

    def _refresh(self, t: tf.Tensor, token_ids: tf.Tensor, offsets: tf.Tensor, *tables: tf.Tensor) -> tf.Tensor:
        """Compute the offsets of some ids, int32 (batch, any), anew for step t."""
        at = self._at(token_ids)
        new = self._offsets(*(tf.gather_nd(table, at) for table in tables))
        if self.end_id >= 0:
            too_early = (t < self.min_steps)[:, None] & (token_ids == self.end_id)
            new = tf.where(too_early, NEVER, new)
        return tf.tensor_scatter_nd_update(offsets, at, new)

    def _offsets(self, counts: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
        present = tf.cast(counts > 0.0, tf.float32)
        return bias - self.presence_penalty[:, None] * present - self.frequency_penalty[:, None] * counts

    @staticmethod
    def _at(token_ids: tf.Tensor) -> tf.Tensor:
        """Return the places of ids, int32 (batch, any), in a table: int32 (batch, any, 2)."""
        rows = tf.range(tf.shape(token_ids)[0])[:, None]
        return tf.stack([tf.broadcast_to(rows, tf.shape(token_ids)), token_ids], axis=2)
