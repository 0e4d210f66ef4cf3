"""The determinism probe keeps the batch sizes that are bit-exact."""

import numpy as np
import pytest

from contract.card import GeneratorCard
from contract.signatures import DECODE, DECODE_FULL, EMBED, NEXT_LOGPROBS, PREFILL, SCORE
from service.backends.determinism_probe import run_probe
from tests.unit.contract.test_card import FIELDS

CARD = GeneratorCard(**{**FIELDS, "batch_sizes": (4, 8, 16, 24, 32), "max_decode_steps": 16})


def server(rounding, where=DECODE):
    """Return a model server whose results of one signature are off by `rounding(batch size, slot)`."""

    def predict(signature, inputs, outputs):
        state = inputs["state"].copy()
        rows = len(state)
        state += (inputs["uniforms"] if "uniforms" in inputs else inputs["token_ids"]).sum(1, keepdims=True)
        if signature == where:
            state += np.array([[rounding(rows, row)] for row in range(rows)], np.float32)
        return {name: np.zeros(shape, np.float32) for name, shape in outputs.items()} | {"state": state}

    return predict


@pytest.mark.parametrize(
    ("rounding", "expected"),
    [
        (lambda rows, row: 0, (4, 8, 16, 24, 32)),  # all agree
        (lambda rows, row: rows == 8, (4, 16, 24, 32)),  # one stands out
        (lambda rows, row: rows // 16, (16, 24)),  # of equal groups the one with the larger maximum
        (lambda rows, row: rows, (32,)),  # none agree
        (lambda rows, row: rows in (4, 8, 32), (4, 8, 32)),
        (lambda rows, row: row if rows == 32 else rows, (24,)),  # one differs between slots
        (lambda rows, row: rows == 16 and row == 13, (4, 8, 24, 32)),  # in one slot
        (lambda rows, row: rows == 4 and row == 2, (8, 16, 24, 32)),
        (lambda rows, row: row, (32,)),  # all differ between slots
    ],
)
def test_the_largest_group_of_batch_sizes_that_agree_is_kept(rounding, expected):
    assert run_probe(CARD, CARD.vocab_size, server(rounding)).batch_sizes == expected


@pytest.mark.parametrize("signature", [PREFILL, DECODE, DECODE_FULL, SCORE, EMBED, NEXT_LOGPROBS])
def test_every_signature_that_is_called_is_probed(signature):
    probe = run_probe(CARD, CARD.vocab_size, server(lambda rows, row: rows == 8, signature))
    assert probe.batch_sizes == (4, 16, 24, 32)


def test_the_probe_hash_identifies_the_arithmetic():
    one, same, other = (run_probe(CARD, CARD.vocab_size, server(lambda rows, row, x=x: x)).sha256 for x in (0, 0, 1))
    assert one == same != other


def test_only_tokens_of_the_vocabulary_are_sent():
    """The output layer may be wider, and the embedding has no rows for more."""
    sent = []
    respond = server(lambda rows, row: 0)

    def predict(signature, inputs, shapes):
        sent.extend(inputs["token_ids"].ravel().tolist() if "token_ids" in inputs else inputs["token_id"].tolist())
        return respond(signature, inputs, shapes)

    run_probe(CARD, 3, predict)
    assert set(sent) == {0, 1, 2}
