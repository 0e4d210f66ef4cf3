"""Logits processing before sampling: masked ids, penalties, logit bias, a minimum of tokens, and constraints.

Pure functions of the logits and of tables that the loop carries from step to step. Sequences are independent, and a
disabled adjustment is a bit-exact no-op: dividing by 1 and adding 0 change no bit.
"""

from dataclasses import dataclass
from typing import NamedTuple

import tensorflow as tf

from contract import signatures
from export.graphs.loop import LoopVars

NEVER = -1e9
# The next row of an entry of the transition table.
_ROW_MASK = signatures.MAX_ROWS - 1


class Constraints(NamedTuple):
    """Automata that restrict which tokens sequences may sample, in one table for all patterns of a call.

    An entry is `distance << ROW_BITS | next row`, or `FORBIDDEN` (see `contract.signatures`). A token is allowed if,
    after it, the budget still suffices for the shortest path to a complete match. A sequence ends where no token is
    allowed, with a complete match, as the budget sufficed for one at every earlier row.

    Attributes:
        transitions: int32 (M, V).
        continuations: int32 (M,): minimum number of tokens, at least one, from each row to a complete match.
        row: int32 (batch,): the row of each sequence; `UNCONSTRAINED_ROW` without a constraint.
        budget: int32 (batch,): tokens left at the beginning of the call, below `FORBIDDEN_DISTANCE`, or that value to
            allow every match, however long.
    """

    transitions: tf.Tensor
    continuations: tf.Tensor
    row: tf.Tensor
    budget: tf.Tensor

    def _left(self, t: tf.Tensor) -> tf.Tensor:
        """Return the remaining budgets after t steps, int32 (batch,)."""
        return tf.where(self.budget < signatures.FORBIDDEN_DISTANCE, tf.maximum(self.budget - t, 0), self.budget)

    def mask(self, t: tf.Tensor, logits: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        """Return the logits float32 (batch, V) of step t, those of forbidden tokens set to `NEVER`."""
        limit = tf.bitwise.left_shift(self._left(t), signatures.ROW_BITS)
        return tf.where(tf.gather(self.transitions, rows) < limit[:, None], logits, NEVER)

    def advance(self, sampled: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        """Return the rows after the sampled ids, both int32 (batch,)."""
        entries = tf.gather_nd(self.transitions, tf.stack([rows, sampled], axis=1))
        return tf.bitwise.bitwise_and(entries, _ROW_MASK)

    def is_complete(self, t: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        """Return whether no token is allowed after step t, bool (batch,)."""
        return tf.gather(self.continuations, rows) > self._left(t + 1)


@dataclass(frozen=True)
class Adjustments:
    """Penalties, logit bias and a minimum number of steps before the end token.

    Order: the logit of a token in the prompt or output is divided by the repetition penalty if positive, else
    multiplied by it (https://arxiv.org/abs/1909.05858 always divides, which would favor improbable tokens). Then
    presence penalty · [count > 0] and frequency penalty · count are subtracted, with counts of the output alone
    (https://platform.openai.com/docs/api-reference/completions). Then the bias and the mask are added.

    The lists have N entries per sequence: distinct ids, then padding of id 0 and value 0.

    Attributes:
        mask: float32 (V,): `NEVER` for ids that must not be sampled, 0 for the others.
        end_id: Id of the end token; -1 for a model without one.
        constraints: Applied last, after bias and mask.
        adjusted_ids: int32 (batch, N): ids with any value below that is not 0.
        counts: float32 (batch, N): how often each id was sampled so far.
        seen: float32 (batch, N): 1 if the id is in the prompt or output so far, else 0.
        bias: float32 (batch, N).
        presence_penalty: float32 (batch,); 0 is off.
        frequency_penalty: float32 (batch,); 0 is off.
        repetition_penalty: float32 (batch,), above 0; 1 is off.
        min_steps: int32 (batch,): number of steps of this call in which the end token cannot be sampled.
    """

    mask: tf.Tensor
    end_id: int
    constraints: Constraints
    adjusted_ids: tf.Tensor
    counts: tf.Tensor
    seen: tf.Tensor
    bias: tf.Tensor
    presence_penalty: tf.Tensor
    frequency_penalty: tf.Tensor
    repetition_penalty: tf.Tensor
    min_steps: tf.Tensor

    def tables(self) -> LoopVars:
        """Return the initial counts, biases plus mask and divisors, float32 (batch, V) each, and rows."""
        batch, length = tf.shape(self.adjusted_ids)[0], tf.shape(self.adjusted_ids)[1]
        rows = tf.repeat(tf.range(batch)[:, None], length, axis=1)
        indices = tf.stack([rows, self.adjusted_ids], axis=2)
        shape = [batch, self.mask.shape[0]]
        counts, seen, bias = (tf.scatter_nd(indices, values, shape) for values in (self.counts, self.seen, self.bias))
        return [
            counts,
            bias + self.mask,
            tf.where(seen > 0.0, self.repetition_penalty[:, None], 1.0),
            self.constraints.row,
        ]

    def adjust(self, t: tf.Tensor, logits: tf.Tensor, tables: LoopVars) -> tf.Tensor:
        """Return the adjusted logits float32 (batch, V) of step t."""
        counts, bias, divisors, rows = tables
        logits = tf.where(logits > 0.0, logits / divisors, logits * divisors)
        logits -= self.presence_penalty[:, None] * tf.cast(counts > 0.0, tf.float32)
        logits -= self.frequency_penalty[:, None] * counts
        logits += bias
        if self.end_id >= 0:
            too_early = tf.where(t < self.min_steps, NEVER, 0.0)
            logits += too_early[:, None] * tf.one_hot(self.end_id, self.mask.shape[0])
        return self.constraints.mask(t, logits, rows)

    def count(self, sampled: tf.Tensor, tables: LoopVars) -> LoopVars:
        """Return the tables for the next step; a finished sequence counts id 0, which has no effect."""
        counts, bias, divisors, rows = tables
        one_hot = tf.one_hot(sampled, self.mask.shape[0])
        divisors = tf.where(one_hot > 0.0, self.repetition_penalty[:, None], divisors)
        return [counts + one_hot, bias, divisors, self.constraints.advance(sampled, rows)]

    def end_complete(self, t: tf.Tensor, ends: tf.Tensor, tables: LoopVars) -> tf.Tensor:
        """Return `ends`, int32 (batch,), the steps after which sequences end; some may be complete after step t."""
        # Except those that ended before: the zeros after their end may lead to any row.
        return tf.where(self.constraints.is_complete(t, tables[-1]) & (t < ends), t + 1, ends)
