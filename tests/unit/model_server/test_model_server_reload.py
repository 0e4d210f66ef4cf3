"""Labels, status and config reloads of a running server."""

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


def test_labels_follow_the_config(models: Models, serve: Serve, refusal: Refusal):
    """A reload moves a label, but only to an available version."""
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


def test_labels_in_the_config_file_need_the_flag(models: Models):
    """No version is available at start, so without the flag TensorFlow Serving does not start either."""
    models.publish(1)
    refused = ModelServer(Flags(port=0, model_config_file=models.configure(models.entry(stable=1))))
    with pytest.raises(LabelRefused):
        refused.start()
    refused.stop()


def test_a_reload_replaces_the_whole_config(models: Models, serve: Serve, until: Until, refusal: Refusal):
    """Added models are served when it returns, removed ones are unloaded."""
    models.publish(1, 2.0)
    models.publish(5, 4.0, name="other")
    client = serve()
    client.reload(models.config(models.entry("other")))
    assert client.weight("other") == 4.0
    until(lambda: client.states() == {1: "END"})
    assert refusal(client.predict) == (Status.NOT_FOUND, "Servable not found for request: Latest(tiny)")
    client.reload("model_config_list {}")
    until(lambda: client.states("other") == {5: "END"})


def test_a_reload_that_lists_a_model_twice_changes_nothing(models: Models, serve: Serve, refusal: Refusal):
    """It is INVALID_ARGUMENT with TensorFlow Serving's message."""
    models.publish(1)
    client = serve()
    assert refusal(lambda: client.reload(models.config(models.entry(), models.entry()))) == (
        Status.INVALID_ARGUMENT,
        "Illegal to list model tiny multiple times in config list",
    )
    assert client.states() == {1: "AVAILABLE"}
    assert client.weight() == 2.0


def count_looks(client: Client) -> list[str]:
    """Record the models whose base paths the server scans from now on, in a list that grows."""
    watcher, looks = client.server._watcher, []
    scan = watcher._scan
    watcher._scan = lambda config: (looks.append(config.name), scan(config))[1]
    return looks


@pytest.mark.parametrize(
    "policy", ["latest { num_versions: 2 }", "specific { versions: 2 }"], ids=["latest", "specific"]
)
def test_a_missing_base_path_blocks_every_model_until_it_exists(
    models: Models, serve: Serve, until: Until, caplog: pytest.LogCaptureFixture, policy: str
):
    """No model gets a new version, and a corrected file has no effect until the added model has a version."""
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
def test_a_config_file_without_a_model_list_unloads_nothing(
    models: Models, serve: Serve, until: Until, caplog: pytest.LogCaptureFixture, content: str, told: str
):
    """An empty list unloads every model."""
    models.publish(1)
    file = models.configure()
    client = serve(file, model_config_file_poll_wait_seconds=0.02)
    file.write_text(content)
    until(lambda: told in caplog.text)
    assert client.states() == {1: "AVAILABLE"}
    models.configure("")
    until(lambda: client.states() == {1: "END"})


def test_a_server_started_without_a_model_list_serves_the_first_one(models: Models, serve: Serve, until: Until):
    """It serves no model until then."""
    models.publish(1)
    file = models.root / "models.config"
    file.write_text("# nothing yet")
    client = serve(file, model_config_file_poll_wait_seconds=0.02)
    models.configure()
    until(lambda: client.prediction.Predict.future(client.request("tiny"), timeout=9.0).code() is Status.OK)


@pytest.mark.parametrize("config", ["", "custom_model_config {}"])
def test_a_reload_without_a_model_list_is_invalid(models: Models, serve: Serve, refusal: Refusal, config: str):
    """An empty message is more likely a mistake than a request to serve nothing."""
    models.publish(1)
    client = serve()
    assert refusal(lambda: client.reload(config)) == (
        Status.INVALID_ARGUMENT,
        "ServerModelConfig type not supported by HandleReloadConfigRequest. "
        "Only ModelConfigList is currently supported",
    )
    assert client.weight() == 2.0


def test_a_changed_config_file_takes_effect(models: Models, serve: Serve, until: Until):
    """Versions that it no longer lists are unloaded."""
    models.publish(1, 2.0)
    models.publish(2, 3.0)
    client = serve(models.configure(models.entry(versions=[1])), model_config_file_poll_wait_seconds=0.02)
    assert client.states() == {1: "AVAILABLE"}
    models.configure(models.entry(versions=[2]))
    until(lambda: client.states() == {2: "AVAILABLE", 1: "END"})


def test_an_invalid_config_file_changes_nothing_and_is_logged_once(
    models: Models, serve: Serve, until: Until, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    """Once for any number of polls; the next valid file takes effect."""
    readings = []
    monkeypatch.setattr(server, "read_config", lambda *where: (readings.append(where), read_config(*where))[1])
    models.publish(1, 2.0)
    models.publish(2, 3.0)
    file = models.configure(models.entry(versions=[1]))
    client = serve(file, model_config_file_poll_wait_seconds=0.02)
    for damage, told in ((lambda: file.write_text("oops"), "invalid models.config"), (file.unlink, "cannot be read")):
        damage()
        until(lambda told=told: told in caplog.text)
        seen = len(readings)
        until(lambda seen=seen: len(readings) > seen + 2)
    assert client.weight() == 2.0
    models.configure(models.entry(versions=[2]))
    until(lambda: client.states() == {2: "AVAILABLE", 1: "END"})
    assert caplog.text.count("the current config stays") == 2


def test_the_config_file_overrides_a_reload(
    models: Models, serve: Serve, until: Until, caplog: pytest.LogCaptureFixture
):
    """At its next poll, as in TensorFlow Serving."""
    caplog.set_level(logging.INFO, "model_server")
    models.publish(1)
    client = serve(model_config_file_poll_wait_seconds=0.1)
    client.reload("model_config_list {}")
    until(lambda: "config file reloaded, models: tiny" in caplog.text)
    until(lambda: client.states() == {1: "AVAILABLE"})


def test_a_config_file_that_is_not_polled_is_read_once(models: Models, serve: Serve, until: Until):
    """Later changes of it have no effect."""
    models.publish(1, 2.0)
    client = serve()
    models.configure(models.entry("other"))
    models.publish(2, 3.0)
    until(lambda: client.states() == {2: "AVAILABLE", 1: "END"})


def test_status_covers_all_versions_or_one_and_ignores_labels(models: Models, serve: Serve, refusal: Refusal):
    """Newest first; an unknown model or version is NOT_FOUND with TensorFlow Serving's message."""
    models.publish(1)
    models.publish(2)
    client = serve(models.configure(models.entry(versions=(1, 2))))
    assert [(v.version, v.status.error_code) for v in client.statuses(label="no such label")] == [(2, 0), (1, 0)]
    assert client.states(version=1) == {1: "AVAILABLE"}
    assert refusal(lambda: client.statuses(version=9)) == (Status.NOT_FOUND, "Could not find version 9 of model tiny")
    assert refusal(lambda: client.statuses("b")) == (Status.NOT_FOUND, "Could not find any versions of model b")


def test_the_file_is_still_polled_after_a_model_failed_to_load(
    models: Models, serve: Serve, until: Until, caplog: pytest.LogCaptureFixture
):
    """The config that lists it is in effect, and the next one takes effect, too."""
    models.publish(1)
    client = serve(model_config_file_poll_wait_seconds=0.02, max_num_load_retries=0)
    models.publish(1, name="broken")
    (models.root / "broken/1/saved_model.pb").write_bytes(b"damaged")
    models.configure(models.entry(), models.entry("broken"))
    until(lambda: "config file applied, but 1 model(s) did not become available" in caplog.text)
    models.configure(models.entry())
    until(lambda: sorted(client.server._repository.config) == ["tiny"])
    assert client.states() == {1: "AVAILABLE"}
