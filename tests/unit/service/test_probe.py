"""The probe finds out which row counts give equal bits."""

import numpy as np
import pytest

from contract.card import GeneratorCard
from contract.signatures import DECODE
from service.probe import run_probe
from tests.unit.contract.test_card import FIELDS

CARD = GeneratorCard(**{**FIELDS, "row_counts": (8, 16, 24, 32), "max_decode_steps": 16})


def server(rounding):
    """Return a model server whose results are off by `rounding(number of rows, row)`."""

    def predict(signature, inputs, outputs):
        state = inputs["state"].copy()
        rows = len(state)
        state += (
            inputs["uniforms"].sum(1, keepdims=True) if signature == DECODE else inputs["token_ids"].sum(1)[:, None]
        )
        state += np.array([[rounding(rows, row)] for row in range(rows)], np.float32)
        steps = inputs["uniforms"].shape[1] if signature == DECODE else 0
        drawn = {"token_ids": np.zeros((rows, steps), np.int32), "logprobs": np.zeros((rows, steps), np.float32)}
        return {name: {**drawn, "state": state}[name] for name in outputs}

    return predict


@pytest.mark.parametrize(
    ("rounding", "expected"),
    [
        (lambda rows, row: 0, (8, 16, 24, 32)),
        (lambda rows, row: rows == 8, (16, 24, 32)),
        (lambda rows, row: rows >= 24, (24, 32)),
        (lambda rows, row: rows, (32,)),
        (lambda rows, row: rows in (8, 32), (8, 32)),
        (lambda rows, row: row if rows == 32 else rows, (24,)),
        (lambda rows, row: rows == 16 and row == 13, (8, 24, 32)),
        (lambda rows, row: row, (32,)),
    ],
    ids=[
        "all agree",
        "one stands out",
        "of equal groups the larger",
        "none agree",
        "of equal groups the one that reaches higher",
        "one is unsteady",
        "one place differs",
        "places differ",
    ],
)
def test_the_largest_group_that_agrees_is_kept(rounding, expected):
    """Counts whose bits differ from the others', or from place to place within a call, are left out."""
    assert run_probe(CARD, server(rounding)).row_counts == expected


def test_the_hash_tells_arithmetics_apart():
    """Two servers that compute alike have one hash, and two that do not have two."""
    one, same, other = (run_probe(CARD, server(lambda rows, row, x=x: x)).sha256 for x in (0, 0, 1))
    assert one == same != other
