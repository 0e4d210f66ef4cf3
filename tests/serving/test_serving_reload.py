"""HandleReloadConfigRequest adds and removes models and moves labels; each test restores the config."""

import grpc
import pytest
from google.protobuf import text_format
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from contract import signatures
from tests.serving.client import refusal
from tests.serving.repository import VERSIONS
from tests.serving.tensors import make_call
from tests.waiting import until

Status = grpc.StatusCode


@pytest.fixture
def config(server, client):
    """A config to change; after the test, even a failed one, the server gets back its own."""
    yield text_format.Parse(server.config, ModelServerConfig())
    client.reload(server.config)
    for name, versions in VERSIONS.items():
        until(lambda name=name, versions=versions: available(client, name) == set(versions))


@pytest.fixture
def reload(client, config):
    """Apply the changed config."""
    return lambda: client.reload(text_format.MessageToString(config))


@pytest.fixture
def answering(server, client):
    call = make_call(signatures.PREFILL, server.card("lstm"), 2)
    return lambda name="lstm", **fields: (
        client.answer(name, signatures.PREFILL, call, **fields).model_spec.version.value
    )


def available(client, name):
    return {number for number, state in client.states(name).items() if state == "AVAILABLE"}


def entry(config, name):
    return next(model for model in config.model_config_list.config if model.name == name)


def remove(config, name):
    config.model_config_list.config.remove(entry(config, name))


def test_an_added_model_is_served_when_the_reload_returns(config, reload, answering):
    assert refusal(lambda: answering("added"))[0] is Status.NOT_FOUND
    config.model_config_list.config.add().CopyFrom(entry(config, "lstm"))
    config.model_config_list.config[-1].name = "added"
    reload()
    assert answering("added") == 2
    assert answering("lstm") == 2


def test_a_removed_model_is_unloaded(config, reload, client, answering):
    remove(config, "gru")
    reload()
    until(lambda: client.states("gru") == {1: "END"})
    assert refusal(lambda: answering("gru")) == (Status.NOT_FOUND, "Servable not found for request: Latest(gru)")
    assert answering("lstm") == 2


def test_a_removed_model_is_served_again_once_it_is_added_back(config, reload, client, answering, server):
    remove(config, "lstm")
    reload()
    until(lambda: client.states("lstm") == {1: "END", 2: "END"})
    client.reload(server.config)
    assert answering("lstm") == 2


def test_the_version_policy_selects_the_served_versions(config, reload, client, answering):
    entry(config, "lstm").model_version_policy.specific.versions[:] = [1]
    reload()
    until(lambda: available(client, "lstm") == {1})
    assert answering() == 1
    assert refusal(lambda: answering(version=2))[0] is Status.NOT_FOUND


def test_a_label_selects_its_version_until_it_is_moved_or_removed(config, reload, client, server, answering):
    labels = entry(config, "lstm").version_labels
    labels["stable"], labels["canary"] = 1, 2
    reload()
    assert (answering(label="stable"), answering(label="canary"), answering()) == (1, 2, 2)
    labels["stable"] = 2
    reload()
    assert answering(label="stable") == 2
    client.reload(server.config)
    assert refusal(lambda: answering(label="stable"))[0] is Status.INVALID_ARGUMENT


def test_a_label_is_not_moved_to_an_unavailable_version(config, reload, answering):
    """The reload fails and the label keeps its version, so that its users are still served."""
    labels = entry(config, "lstm").version_labels
    labels["stable"] = 1
    reload()
    labels["stable"] = 99
    assert refusal(reload)[0] is Status.FAILED_PRECONDITION
    assert answering(label="stable") == 1


def test_an_invalid_config_changes_nothing(config, reload, answering):
    config.model_config_list.config.add().CopyFrom(entry(config, "lstm"))
    assert refusal(reload)[0] is Status.INVALID_ARGUMENT
    assert answering() == 2
