"""Bit-exact outputs at every batch size that the determinism probe keeps: the basis of reproducible completions."""

import functools

import numpy as np
import pytest

from contract import signatures
from service.backends.client import ModelServerClient
from service.backends.determinism_probe import NUM_SEQUENCES, run_probe
from service.scheduling.sequence import ModelVersion
from tests.serving.client import TIMEOUT_S
from tests.serving.repository import VERSIONS
from tests.serving.tensors import NAMES, make_call


@pytest.fixture(scope="session")
def probe(server):
    """Run the gateway's determinism probe, once per model."""
    client = ModelServerClient(server.address, timeout_s=TIMEOUT_S)

    @functools.cache
    def run(name):
        card = server.card(name)
        return run_probe(
            card, card.vocab_size, functools.partial(client.predict, ModelVersion(name, VERSIONS[name][-1]))
        )

    yield run
    client.close()


@pytest.mark.parametrize("name", VERSIONS)
def test_the_determinism_probe_keeps_a_batch_size(probe, name):
    found = probe(name)
    assert found.is_deterministic
    assert found.batch_sizes


@pytest.mark.parametrize("name", VERSIONS)
@pytest.mark.parametrize("signature", [name for name in NAMES if name != signatures.SERVING_DEFAULT])
def test_a_sequence_is_bit_exact_at_every_index_of_every_kept_batch_size(server, client, probe, name, signature):
    call = make_call(signature, server.card(name), NUM_SEQUENCES, seed=5, temperature=0.8)
    if signature == signatures.NEXT_LOGPROBS:
        # What the steps ahead expand depends on all sequences.
        call["num_ahead"] *= 0
    bits = {}
    for count in probe(name).batch_sizes:
        for shift in (0, 5):
            places = (np.arange(count) + shift) % NUM_SEQUENCES
            outputs = client.predict(name, signature, {key: array[places] for key, array in call.items()})
            for place, row in enumerate(places.tolist()):
                found = b"".join(outputs[key][place].tobytes() for key in sorted(outputs))
                bits.setdefault(row, set()).add(found)
    assert {row: len(found) for row, found in bits.items()} == dict.fromkeys(range(NUM_SEQUENCES), 1)
