"""HandleReloadConfigRequest: models come and go, labels move, and in the end all is as it was."""

import grpc
import pytest
from google.protobuf import text_format
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from contract import signatures
from tests.serving.repository import VERSIONS
from tests.serving.tensors import make_call
from tests.waiting import until

Status = grpc.StatusCode


@pytest.fixture
def config(server, client):
    """A config to be changed; whatever becomes of the test, the server is given back its own."""
    yield text_format.Parse(server.config, ModelServerConfig())
    client.reload(server.config)
    for name, versions in VERSIONS.items():
        until(lambda name=name, versions=versions: available(client, name) == set(versions))


@pytest.fixture
def reload(client, config):
    """Put the changed config in force."""
    return lambda: client.reload(text_format.MessageToString(config))


@pytest.fixture
def answering(server, client):
    """Return the version that answers a call."""
    call = make_call(signatures.PREFILL, server.card("lstm"), 2)
    return lambda name="lstm", **fields: (
        client.answer(name, signatures.PREFILL, call, **fields).model_spec.version.value
    )


def available(client, name):
    """Return the versions that are served."""
    return {number for number, state in client.states(name).items() if state == "AVAILABLE"}


def entry(config, name):
    """Return a model of a config."""
    return next(model for model in config.model_config_list.config if model.name == name)


def remove(config, name):
    """Take a model out of a config."""
    config.model_config_list.config.remove(entry(config, name))


def test_a_model_that_is_added_answers_when_the_reload_does(config, reload, answering, refusal):
    """The others go on."""
    assert refusal(lambda: answering("added"))[0] is Status.NOT_FOUND
    config.model_config_list.config.add().CopyFrom(entry(config, "lstm"))
    config.model_config_list.config[-1].name = "added"
    reload()
    assert answering("added") == 2
    assert answering("lstm") == 2


def test_a_model_that_is_left_out_is_unloaded(config, reload, client, answering, refusal):
    """Its status goes to END, calls get NOT_FOUND, and the others go on."""
    remove(config, "gru")
    reload()
    until(lambda: client.states("gru") == {1: "END"})
    assert refusal(lambda: answering("gru")) == (Status.NOT_FOUND, "Servable not found for request: Latest(gru)")
    assert answering("lstm") == 2


def test_a_model_that_comes_back_answers_again(config, reload, client, answering, server):
    """After it was unloaded."""
    remove(config, "lstm")
    reload()
    until(lambda: client.states("lstm") == {1: "END", 2: "END"})
    client.reload(server.config)
    assert answering("lstm") == 2


def test_a_policy_chooses_the_versions_that_are_served(config, reload, client, answering, refusal):
    """The older one alone answers those that name none."""
    entry(config, "lstm").model_version_policy.specific.versions[:] = [1]
    reload()
    until(lambda: available(client, "lstm") == {1})
    assert answering() == 1
    assert refusal(lambda: answering(version=2))[0] is Status.NOT_FOUND


def test_a_label_names_a_version_until_it_is_moved_or_gone(config, reload, client, server, answering, refusal):
    """Calls that name no label are not concerned."""
    labels = entry(config, "lstm").version_labels
    labels["stable"], labels["canary"] = 1, 2
    reload()
    assert (answering(label="stable"), answering(label="canary"), answering()) == (1, 2, 2)
    labels["stable"] = 2
    reload()
    assert answering(label="stable") == 2
    client.reload(server.config)
    assert refusal(lambda: answering(label="stable"))[0] is Status.INVALID_ARGUMENT


def test_a_label_is_not_moved_to_a_version_that_is_not_there(config, reload, answering, refusal):
    """Whoever uses it would be left with nothing; so it stays where it is."""
    labels = entry(config, "lstm").version_labels
    labels["stable"] = 1
    reload()
    labels["stable"] = 99
    assert refusal(reload)[0] is Status.FAILED_PRECONDITION
    assert answering(label="stable") == 1


def test_a_config_that_cannot_be_used_changes_nothing(config, reload, answering, refusal):
    """A model that is listed twice is refused."""
    config.model_config_list.config.add().CopyFrom(entry(config, "lstm"))
    assert refusal(reload)[0] is Status.INVALID_ARGUMENT
    assert answering() == 2
