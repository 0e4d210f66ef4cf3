"""Adjustments that are off change no bit of the logits, which sampled tokens would not show."""

import numpy as np
import pytest
import tensorflow as tf

from contract.signatures import FORBIDDEN_DISTANCE
from export.graphs.adjustments import NEVER, Adjustments, Constraints
from tests.unit.export.published import same_bits

ROWS, VOCABULARY = 8, 50
RNG = np.random.default_rng(0)
MASK = tf.constant(np.where(np.arange(VOCABULARY) < 2, NEVER, 0).astype(np.float32))
IDS = tf.constant(np.stack([RNG.permutation(VOCABULARY)[:20] for _ in range(ROWS)]).astype(np.int32))
VALUES = tf.constant(RNG.integers(0, 9, (ROWS, 20)).astype(np.float32))
ZEROS = tf.zeros([ROWS])


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("end_id", [-1, 2])
def test_adjustments_that_are_off_are_bit_exact_to_the_mask(end_id, scale):
    off = Adjustments(
        mask=MASK,
        end_id=end_id,
        adjusted_ids=IDS,
        counts=VALUES,
        seen=tf.sign(VALUES),
        bias=tf.zeros_like(VALUES),
        presence_penalty=ZEROS,
        frequency_penalty=ZEROS,
        repetition_penalty=ZEROS + 1.0,
        min_steps=tf.zeros([ROWS], tf.int32),
        constraints=Constraints(
            tf.zeros([1, VOCABULARY], tf.int32),
            tf.zeros([1], tf.int32),
            tf.zeros([ROWS], tf.int32),
            tf.fill([ROWS], FORBIDDEN_DISTANCE),
        ),
    )
    tables = off.tables()
    for t in tf.range(20):
        logits = tf.constant(RNG.normal(0, scale, (ROWS, VOCABULARY)).astype(np.float32))
        assert same_bits(off.adjust(t, logits, tables).numpy(), (logits + MASK).numpy())
        drawn = tf.constant(RNG.integers(2, VOCABULARY, ROWS).astype(np.int32))
        tables = off.count(drawn, tables)
