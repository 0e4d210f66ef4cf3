"""Names, versions, metadata and statuses, and the errors of invalid requests."""

import grpc
import numpy as np
import pytest

from contract import signatures
from tests.serving.client import refusal
from tests.serving.repository import MAX_BATCH_SIZE, VERSIONS
from tests.serving.tensors import INPUTS, NAMES, make_call, outputs_of, shape, sizes_of

Status = grpc.StatusCode


@pytest.fixture
def call(server):
    return make_call(signatures.PREFILL, server.card("lstm"), 3)


@pytest.mark.parametrize(("version", "answering"), [(None, 2), (1, 1), (2, 2)])
def test_a_response_names_the_concrete_version_and_the_signature(client, call, version, answering):
    """A request without a version is for the newest one."""
    spec = client.answer("lstm", signatures.PREFILL, call, version=version).model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("lstm", answering, signatures.PREFILL)


def test_a_request_without_a_signature_uses_the_default_one(server, client):
    inputs = make_call(signatures.SERVING_DEFAULT, server.card("lstm"), 3)
    answer = client.answer("lstm", "", inputs)
    assert answer.model_spec.signature_name == signatures.SERVING_DEFAULT
    assert set(answer.outputs) == {"logits"}


def test_output_filter_selects_the_outputs(server, client):
    inputs = make_call(signatures.SCORE, server.card("lstm"), 8)
    everything = client.predict("lstm", signatures.SCORE, inputs)
    chosen = client.predict("lstm", signatures.SCORE, inputs, output_filter=["state"])
    assert {name: array.tobytes() for name, array in chosen.items()} == {"state": everything["state"].tobytes()}


@pytest.mark.parametrize(
    ("fields", "code", "told"),
    [
        ({"name": "absent"}, Status.NOT_FOUND, "Servable not found for request: Latest(absent)"),
        ({"version": 99}, Status.NOT_FOUND, "Servable not found for request: Specific(lstm, 99)"),
        ({"label": "absent"}, Status.INVALID_ARGUMENT, "absent"),
        ({"signature": "absent"}, Status.FAILED_PRECONDITION, "absent"),
    ],
    ids=["model", "version", "label", "signature"],
)
def test_unknown_models_versions_labels_and_signatures_have_their_statuses(client, call, fields, code, told):
    found, text = refusal(
        lambda: client.predict(**{"name": "lstm", "signature": signatures.PREFILL, **fields}, inputs=call)
    )
    assert found is code
    assert told in text


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda call: call.pop("lengths"), "lengths"),
        (lambda call: call.update(surplus=call["lengths"]), "surplus"),
        (lambda call: call.update(state=call["state"].astype(np.int32)), ""),
        (lambda call: call.update(lengths=call["lengths"].astype(np.float32)), ""),
    ],
    ids=["missing", "extra", "int32 for float32", "float32 for int32"],
)
def test_missing_extra_and_mistyped_inputs_are_invalid(client, call, change, told):
    """A missing or extra input is named in the message; one of another dtype is not in every release."""
    change(call)
    code, text = refusal(lambda: client.predict("lstm", signatures.PREFILL, call))
    assert code is Status.INVALID_ARGUMENT
    assert told in text


@pytest.mark.parametrize("name", VERSIONS)
@pytest.mark.parametrize("signature", [name for name in NAMES if len(INPUTS[name]) > 1])
def test_inputs_of_unequal_batch_sizes_are_invalid(server, client, name, signature):
    inputs = make_call(signature, server.card(name), 4)
    inputs["state"] = inputs["state"][:3]
    assert refusal(lambda: client.predict(name, signature, inputs))[0] is Status.INVALID_ARGUMENT


def test_a_call_above_the_largest_batch_size_is_computed(server, client):
    """Only the gateway limits the batch size."""
    outputs = client.predict(
        "lstm", signatures.PREFILL, make_call(signatures.PREFILL, server.card("lstm"), MAX_BATCH_SIZE + 1)
    )
    assert outputs["state"].shape[0] == MAX_BATCH_SIZE + 1


@pytest.mark.parametrize("name", VERSIONS)
def test_the_status_of_a_model_lists_its_versions(client, name):
    assert client.states(name) == dict.fromkeys(VERSIONS[name], "AVAILABLE")


def test_the_status_of_one_version_lists_no_other(client):
    assert client.states("lstm", 1) == {1: "AVAILABLE"}


@pytest.mark.parametrize(("name", "version"), [("absent", None), ("lstm", 99)])
def test_the_status_of_an_unknown_model_or_version_is_not_found(client, name, version):
    assert refusal(lambda: client.states(name, version))[0] is Status.NOT_FOUND


@pytest.mark.parametrize("name", VERSIONS)
def test_metadata_lists_all_signatures_with_their_dtypes_and_shapes(server, client, name):
    spec, found = client.metadata(name)
    assert (spec.name, spec.version.value) == (name, VERSIONS[name][-1])
    card = server.card(name)
    sizes = sizes_of(card)
    for signature in NAMES:
        definition = found[signature]
        assert described(definition.inputs) == expected(INPUTS[signature], sizes)
        assert described(definition.outputs) == expected(outputs_of(signature, card), sizes)
        assert definition.method_name == "tensorflow/serving/predict"


def described(tensors):
    from tensorflow import dtypes

    return {
        name: (dtypes.as_dtype(info.dtype).as_numpy_dtype, tuple(dim.size for dim in info.tensor_shape.dim))
        for name, info in tensors.items()
    }


def expected(tensors, sizes):
    return {
        name: (dtype, tuple(-1 if size is None else size for size in shape(letters, sizes)))
        for name, (dtype, letters) in tensors.items()
    }


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"name": "absent"}, Status.NOT_FOUND),
        ({"name": "lstm", "version": 99}, Status.NOT_FOUND),
        ({"name": "lstm", "fields": ()}, Status.INVALID_ARGUMENT),
        ({"name": "lstm", "fields": ("absent",)}, Status.INVALID_ARGUMENT),
    ],
    ids=["model", "version", "no field", "unknown field"],
)
def test_unknown_metadata_is_refused(client, fields, code):
    """`signature_def` of a served version is the only metadata."""
    assert refusal(lambda: client.metadata(**fields))[0] is code
