"""Large, cancelled, expired and concurrent calls."""

import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest

from contract import signatures
from tests.serving.client import TIMEOUT_S
from tests.serving.repository import MAX_BATCH_SIZE
from tests.serving.tensors import make_call

Status = grpc.StatusCode
# TensorFlow Serving runs four calls per core at once, less one, and rejects more. Calls that were given up still count.
NUM_CALLERS = 3


def bits(outputs):
    return {name: array.tobytes() for name, array in outputs.items()}


def test_a_response_may_exceed_grpcs_default_limit(server, client, compute):
    inputs = make_call(signatures.SERVING_DEFAULT, server.card("lstm"), MAX_BATCH_SIZE, length=600)
    logits = client.predict("lstm", signatures.SERVING_DEFAULT, inputs)["logits"]
    assert logits.nbytes > 4 * 2**20
    expected = compute(server.version_dir("lstm"), signatures.SERVING_DEFAULT, inputs)["logits"]
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-3)


def test_a_request_may_exceed_grpcs_default_limit(server, client):
    """Padding beyond `lengths` does not change the outputs."""
    short = make_call(signatures.PREFILL, server.card("lstm"), MAX_BATCH_SIZE, length=3)
    padding = np.zeros((MAX_BATCH_SIZE, 20_000), np.int32)
    long = {**short, "token_ids": np.concatenate([short["token_ids"], padding], axis=1)}
    assert long["token_ids"].nbytes > 4 * 2**20
    assert bits(client.predict("lstm", signatures.PREFILL, long)) == bits(
        client.predict("lstm", signatures.PREFILL, short)
    )


@pytest.fixture
def ordinary(server, client):
    """A call, and the bytes of its outputs."""
    inputs = make_call(signatures.DECODE, server.card("lstm"), 8)
    return inputs, bits(client.predict("lstm", signatures.DECODE, inputs))


@pytest.fixture
def begin_long(server, client):
    """Begin a call that takes far longer than any of these tests: its decode steps are a loop in the graph."""
    steps = 20 * server.card("lstm").max_decode_steps
    inputs = make_call(signatures.DECODE, server.card("lstm"), MAX_BATCH_SIZE, steps=steps)
    return lambda timeout_s=TIMEOUT_S: client.begin("lstm", signatures.DECODE, inputs, timeout_s=timeout_s)


def test_cancelled_calls_do_not_affect_other_calls(ordinary, begin_long, client):
    """Calls are cancelled while they are computed, and each following call is byte-identical to the first."""
    inputs, before = ordinary
    codes = set()
    for _ in range(3):
        calls = [begin_long() for _ in range(NUM_CALLERS)]
        time.sleep(0.05)  # by then the server has received them
        for call in calls:
            call.cancel()
        codes |= {call.code() for call in calls}
        assert bits(client.predict("lstm", signatures.DECODE, inputs)) == before
    assert Status.CANCELLED in codes <= {Status.CANCELLED, Status.RESOURCE_EXHAUSTED}


def test_expired_calls_do_not_affect_the_next_call(ordinary, begin_long, client):
    inputs, before = ordinary
    calls = [begin_long(timeout_s=0.05) for _ in range(NUM_CALLERS)]
    assert {call.code() for call in calls} <= {Status.DEADLINE_EXCEEDED, Status.RESOURCE_EXHAUSTED}
    assert bits(client.predict("lstm", signatures.DECODE, inputs)) == before


def test_concurrent_calls_are_byte_identical_to_single_calls(server, client):
    asked = [
        (name, signature, make_call(signature, server.card(name), MAX_BATCH_SIZE, seed=seed, temperature=0.8))
        for name in ("lstm", "gru")
        for signature in (signatures.DECODE, signatures.SCORE)
        for seed in range(NUM_CALLERS)
    ]
    alone = [bits(client.predict(*call)) for call in asked]
    with ThreadPoolExecutor(NUM_CALLERS) as pool:
        together = list(pool.map(lambda call: bits(client.predict(*call)), asked))
    assert [number for number, found in enumerate(together) if found != alone[number]] == []
