"""Outputs of every signature, compared with the contract and with the same SavedModel in this process."""

import numpy as np
import pytest

from contract import signatures
from tests.serving.repository import VERSIONS
from tests.serving.tensors import NAMES, make_call, outputs_of, shape, sizes_of

# Builds of TensorFlow differ in the order of sums, by a few 1e-6 here; a wrong graph differs by far more.
TOLERANCE = 1e-4
ROWS, LENGTH, STEPS = 5, 7, 9

every_model = pytest.mark.parametrize("name", VERSIONS)
every_signature = pytest.mark.parametrize("signature", NAMES)


@every_model
@every_signature
def test_outputs_have_the_names_dtypes_and_shapes_of_the_contract(server, client, name, signature):
    """The gateway refuses any others."""
    card = server.card(name)
    outputs = client.predict(name, signature, make_call(signature, card, ROWS, length=LENGTH, steps=STEPS))
    sizes = sizes_of(card, ROWS, LENGTH, STEPS)
    wanted = outputs_of(signature, card)
    expected = {key: (np.dtype(dtype), shape(letters, sizes)) for key, (dtype, letters) in wanted.items()}
    assert {key: (array.dtype, array.shape) for key, array in outputs.items()} == expected


@pytest.mark.parametrize(("name", "version"), [(name, number) for name in VERSIONS for number in VERSIONS[name]])
@every_signature
def test_outputs_equal_those_of_the_same_saved_model_in_this_process(server, client, compute, name, version, signature):
    """Greedily sampled tokens exactly, floats within a tolerance, for every version."""
    inputs = make_call(signature, server.card(name, version), ROWS, length=LENGTH, steps=STEPS, seed=version)
    expected = compute(server.version_dir(name, version), signature, inputs)
    outputs = client.predict(name, signature, inputs, version=version)
    if "token_ids" in expected:
        np.testing.assert_array_equal(outputs["token_ids"], expected["token_ids"])
    for key, array in expected.items():
        if array.dtype == np.float32:
            np.testing.assert_allclose(outputs[key], array, rtol=TOLERANCE, atol=TOLERANCE, err_msg=key)
    if "top_token_ids" in expected:
        certain = apart(expected["top_logprobs"])
        np.testing.assert_array_equal(outputs["top_token_ids"][certain], expected["top_token_ids"][certain])


def apart(logprobs):
    """Return which of the top tokens cannot swap places within the tolerance: bool, the shape of `logprobs`."""
    gaps = -np.diff(logprobs, axis=-1) > 10 * TOLERANCE
    edge = np.ones_like(gaps[..., :1])
    # The token after the last one is not returned, so the last one is never certain.
    return np.concatenate([edge, gaps], axis=-1) & np.concatenate([gaps, ~edge], axis=-1)


@every_model
def test_sampled_tokens_equal_those_of_the_same_saved_model_here(server, client, compute, name):
    inputs = make_call(signatures.DECODE, server.card(name), ROWS, steps=STEPS, temperature=0.9)
    expected = compute(server.version_dir(name), signatures.DECODE, inputs)
    outputs = client.predict(name, signatures.DECODE, inputs)
    assert len(set(expected["token_ids"].ravel().tolist())) > STEPS
    np.testing.assert_array_equal(outputs["token_ids"], expected["token_ids"])


@every_model
def test_every_signature_computes_the_same_state_for_the_same_tokens(server, client, name):
    card, rows = server.card(name), signatures.BATCH_SIZES[0]
    begin = make_call(signatures.DECODE, card, rows, steps=STEPS)
    drawn = client.predict(name, signatures.DECODE, begin)
    # The model has not read the last sampled token.
    texts = np.concatenate([begin["token_id"][:, None], drawn["token_ids"]], axis=1)
    everything = np.full(rows, STEPS, np.int32)

    def read(signature, texts, lengths, state, **more):
        inputs = {"token_ids": texts, "lengths": lengths, "state": state, **more}
        return client.predict(name, signature, inputs)["state"].tobytes()

    state, half = begin["state"], STEPS // 2
    first = client.predict(
        name, signatures.PREFILL, {"token_ids": texts[:, :half], "lengths": everything * 0 + half, "state": state}
    )
    zeros = np.zeros((rows, card.units), np.float32)
    no_steps = dict.fromkeys(("num_ahead", "row"), everything * 0) | {"logprob": zeros[:, 0]}
    no_steps["transitions"] = np.zeros((1, card.vocab_size), np.int32)
    found = {
        "drawn": drawn["state"].tobytes(),
        "at once": read(signatures.PREFILL, texts[:, :-1], everything, state),
        "in two parts": read(signatures.PREFILL, texts[:, half:-1], everything - half, first["state"]),
        "scored": read(signatures.SCORE, texts, everything, state, num_top=everything * 0),
        "inspected": read(signatures.INSPECT, texts, everything, state),
        "predicted": read(signatures.NEXT_LOGPROBS, texts[:, :-1], everything, state, **no_steps),
        "embedded": read(signatures.EMBED, texts[:, :-1], everything, state, sum=zeros),
    }
    assert {way for way, bits in found.items() if bits != found["drawn"]} == set()
    assert drawn["state"].tobytes() != state.tobytes()
