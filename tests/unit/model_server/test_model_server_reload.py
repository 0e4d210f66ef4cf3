"""Labels, status, and configs that change while the server runs."""

import logging
from collections.abc import Callable

import grpc
import pytest

from model_server import server
from model_server.config import read_config
from model_server.errors import LabelRefused
from model_server.flags import Flags
from model_server.server import ModelServer
from tests.unit.model_server.model_folder import Models
from tests.unit.model_server.serving_client import Client

Status = grpc.StatusCode
Until = Callable[[Callable[[], object]], None]
Serve = Callable[..., Client]
Refusal = Callable[[Callable[[], object]], tuple[Status, str]]


def test_labels_name_versions_and_follow_the_config(models: Models, serve: Serve, refusal: Refusal):
    """A label is moved by a reload, and only to a version that is available."""
    models.publish(1, 2.0)
    models.publish(2, 3.0)
    file = models.configure(models.entry(versions=(1, 2), stable=1))
    client = serve(file, allow_version_labels_for_unavailable_models=True)
    assert client.weight(label="stable") == 2.0
    assert client.predict(label="stable").model_spec.version.value == 1
    client.reload(models.config(models.entry(versions=(1, 2), stable=2)))
    assert client.weight(label="stable") == 3.0
    assert refusal(lambda: client.reload(models.config(models.entry(versions=(1, 2), stable=9)))) == (
        Status.FAILED_PRECONDITION,
        "Request to assign label to version 9 of model tiny, which is not currently available for inference",
    )
    assert client.weight(label="stable") == 3.0


def test_labels_in_the_file_need_the_flag(models: Models):
    """At start no version is available yet, so without it neither TensorFlow Serving starts nor this."""
    models.publish(1)
    refused = ModelServer(Flags(port=0, model_config_file=models.configure(models.entry(stable=1))))
    with pytest.raises(LabelRefused):
        refused.start()
    refused.stop()


def test_a_reload_replaces_the_whole_config(models: Models, serve: Serve, until: Until, refusal: Refusal):
    """New models are served when it returns, those left out are unloaded."""
    models.publish(1, 2.0)
    models.publish(5, 4.0, name="other")
    client = serve()
    client.reload(models.config(models.entry("other")))
    assert client.weight("other") == 4.0
    until(lambda: client.states() == {1: "END"})
    assert refusal(client.predict) == (Status.NOT_FOUND, "Servable not found for request: Latest(tiny)")
    client.reload("model_config_list {}")
    until(lambda: client.states("other") == {5: "END"})


def test_a_reload_that_lists_a_model_twice_is_invalid_and_what_is_served_stays(
    models: Models, serve: Serve, refusal: Refusal
):
    """The text is TensorFlow Serving's."""
    models.publish(1)
    client = serve()
    assert refusal(lambda: client.reload(models.config(models.entry(), models.entry()))) == (
        Status.INVALID_ARGUMENT,
        "Illegal to list model tiny multiple times in config list",
    )
    assert client.states() == {1: "AVAILABLE"}
    assert client.weight() == 2.0


def count_looks(client: Client) -> list[str]:
    """Return the models at whose base paths the server looks from now on, a list that grows."""
    watcher, looks = client.server._watcher, []
    scan = watcher._scan
    watcher._scan = lambda config: (looks.append(config.name), scan(config))[1]
    return looks


@pytest.mark.parametrize(
    "policy", ["latest { num_versions: 2 }", "specific { versions: 2 }"], ids=["latest", "specific"]
)
def test_a_base_path_that_does_not_exist_wedges_the_server_until_it_is_there(
    models: Models, serve: Serve, until: Until, caplog: pytest.LogCaptureFixture, policy: str
):
    """No model gets a new version, and a corrected file changes nothing until the new model has a version."""
    models.publish(1, 2.0)
    client = serve(model_config_file_poll_wait_seconds=0.02)
    models.configure(models.entry(), models.entry("absent", extra=f"model_version_policy {{ {policy} }}"))
    until(lambda: "Could not find base path" in caplog.text)
    models.publish(2, 3.0)
    models.configure(models.entry())
    looks = count_looks(client)
    until(lambda: len(looks) > 3)
    assert client.states() == {1: "AVAILABLE"}
    (models.root / "absent").mkdir()
    until(lambda: client.states() == {2: "AVAILABLE", 1: "END"})
    assert sorted(client.server._repository.config) == ["absent", "tiny"]
    models.publish(2, 3.0, name="absent")
    until(lambda: sorted(client.server._repository.config) == ["tiny"])


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "Invalid argument: the file is empty"),
        ("# nothing", "It is only legal to transition from one ModelConfigList to another."),
        ("\n", "It is only legal to transition from one ModelConfigList to another."),
    ],
    ids=["no byte", "comment", "newline"],
)
def test_a_config_file_without_a_list_unloads_nothing(
    models: Models, serve: Serve, until: Until, caplog: pytest.LogCaptureFixture, content: str, told: str
):
    """An empty list does."""
    models.publish(1)
    file = models.configure()
    client = serve(file, model_config_file_poll_wait_seconds=0.02)
    file.write_text(content)
    until(lambda: told in caplog.text)
    assert client.states() == {1: "AVAILABLE"}
    models.configure("")
    until(lambda: client.states() == {1: "END"})


def test_a_server_that_starts_without_a_list_takes_the_first_one(models: Models, serve: Serve, until: Until):
    """It serves nothing until then."""
    models.publish(1)
    file = models.root / "models.config"
    file.write_text("# nothing yet")
    client = serve(file, model_config_file_poll_wait_seconds=0.02)
    models.configure()
    until(lambda: client.prediction.Predict.future(client.request("tiny"), timeout=9.0).code() is Status.OK)


@pytest.mark.parametrize("config", ["", "custom_model_config {}"])
def test_a_reload_without_a_list_of_models_is_invalid(models: Models, serve: Serve, refusal: Refusal, config: str):
    """An empty message is more likely a mistake than a wish to serve nothing."""
    models.publish(1)
    client = serve()
    assert refusal(lambda: client.reload(config)) == (
        Status.INVALID_ARGUMENT,
        "ServerModelConfig type not supported by HandleReloadConfigRequest. "
        "Only ModelConfigList is currently supported",
    )
    assert client.weight() == 2.0


def test_the_config_file_is_followed(models: Models, serve: Serve, until: Until):
    """A change takes effect, and what was served by the old one ends."""
    models.publish(1, 2.0)
    models.publish(2, 3.0)
    client = serve(models.configure(models.entry(versions=[1])), model_config_file_poll_wait_seconds=0.02)
    assert client.states() == {1: "AVAILABLE"}
    models.configure(models.entry(versions=[2]))
    until(lambda: client.states() == {2: "AVAILABLE", 1: "END"})


def test_a_config_file_that_cannot_be_used_changes_nothing_and_is_logged_once(
    models: Models, serve: Serve, until: Until, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    """However often it is read; once it can be used again, it is."""
    readings = []
    monkeypatch.setattr(server, "read_config", lambda *where: (readings.append(where), read_config(*where))[1])
    models.publish(1, 2.0)
    models.publish(2, 3.0)
    file = models.configure(models.entry(versions=[1]))
    client = serve(file, model_config_file_poll_wait_seconds=0.02)
    for damage, told in ((lambda: file.write_text("oops"), "not a usable"), (file.unlink, "cannot be read")):
        damage()
        until(lambda told=told: told in caplog.text)
        seen = len(readings)
        until(lambda seen=seen: len(readings) > seen + 2)
    assert client.weight() == 2.0
    models.configure(models.entry(versions=[2]))
    until(lambda: client.states() == {2: "AVAILABLE", 1: "END"})
    assert caplog.text.count("the current config stays") == 2


def test_the_config_file_overrules_a_reload(
    models: Models, serve: Serve, until: Until, caplog: pytest.LogCaptureFixture
):
    """At its next reading, as in TensorFlow Serving."""
    caplog.set_level(logging.INFO, "model_server")
    models.publish(1)
    client = serve(model_config_file_poll_wait_seconds=0.1)
    client.reload("model_config_list {}")
    until(lambda: "config file read again, models: tiny" in caplog.text)
    until(lambda: client.states() == {1: "AVAILABLE"})


def test_a_config_file_that_is_not_polled_is_read_once(models: Models, serve: Serve, until: Until):
    """What it says later counts for nothing."""
    models.publish(1, 2.0)
    client = serve()
    models.configure(models.entry("other"))
    models.publish(2, 3.0)
    until(lambda: client.states() == {2: "AVAILABLE", 1: "END"})


def test_status_tells_all_versions_or_one_and_does_not_look_at_labels(models: Models, serve: Serve, refusal: Refusal):
    """Newest first; what was never there is NOT_FOUND with TensorFlow Serving's texts."""
    models.publish(1)
    models.publish(2)
    client = serve(models.configure(models.entry(versions=(1, 2))))
    assert [(v.version, v.status.error_code) for v in client.statuses(label="no such label")] == [(2, 0), (1, 0)]
    assert client.states(version=1) == {1: "AVAILABLE"}
    assert refusal(lambda: client.statuses(version=9)) == (Status.NOT_FOUND, "Could not find version 9 of model tiny")
    assert refusal(lambda: client.statuses("b")) == (Status.NOT_FOUND, "Could not find any versions of model b")
