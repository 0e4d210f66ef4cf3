"""Versions that are published, removed, broken or warmed up while the server runs."""

import shutil
import threading
from collections.abc import Callable

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

from model_server.errors import ServableNotFound
from model_server.flags import Flags
from model_server.server import ModelServer
from tests.unit.model_server.model_folder import Models
from tests.unit.model_server.serving_client import Client
from tests.unit.model_server.tiny_model import Gate

Status = grpc.StatusCode
Until = Callable[[Callable[[], object]], None]
Serve = Callable[..., Client]
Gates = Callable[[str], Gate]
Refusal = Callable[[Callable[[], object]], tuple[Status, str]]


def test_a_new_version_replaces_the_old_one(models: Models, serve: Serve, until: Until, refusal: Refusal):
    """The old one is END, and a request for it is NOT_FOUND."""
    models.publish(1, 2.0)
    client = serve()
    assert client.weight() == 2.0
    models.publish(2, 3.0)
    until(lambda: client.states() == {2: "AVAILABLE", 1: "END"})
    assert client.weight() == 3.0
    expected = Status.NOT_FOUND, "Servable not found for request: Specific(tiny, 1)"
    assert refusal(lambda: client.weight(version=1)) == expected


def test_no_request_fails_while_versions_change(models: Models, serve: Serve):
    """Each is computed by one version or the other."""
    models.publish(1, 2.0)
    client = serve()
    models.publish(2, 3.0)
    seen = {client.weight()}
    while 3.0 not in seen:
        seen.add(client.weight())
    assert seen <= {2.0, 3.0}


@pytest.mark.parametrize(
    ("policy", "states"),
    [
        ("", {3: "AVAILABLE"}),
        ("latest { num_versions: 2 }", {2: "AVAILABLE", 3: "AVAILABLE"}),
        ("all {}", {1: "AVAILABLE", 2: "AVAILABLE", 3: "AVAILABLE"}),
        ("specific { versions: 1 versions: 3 }", {1: "AVAILABLE", 3: "AVAILABLE"}),
    ],
    ids=["default", "latest 2", "all", "specific"],
)
def test_the_version_policy_selects_the_served_versions(
    models: Models, serve: Serve, policy: str, states: dict[int, str]
):
    """Each is served by its number, and the newest is the default."""
    for version in (1, 2, 3):
        models.publish(version, float(version))
    client = serve(models.configure(models.entry(extra=f"model_version_policy {{ {policy} }}")))
    assert client.states() == states
    assert {version: client.weight(version=version) for version in states} == {v: float(v) for v in states}
    assert client.weight() == 3.0


@pytest.mark.parametrize("damage", ["torn", "empty", "no variables", "no serve tag"])
def test_a_broken_version_never_replaces_the_old_one(models: Models, serve: Serve, until: Until, damage: str):
    """It ends with an error in its status, and the old one is served until a valid version is published."""
    models.publish(1, 2.0)
    client = serve()
    draft = models.draft(2, 3.0)
    file = draft / "saved_model.pb"
    match damage:
        case "torn":
            file.write_bytes(file.read_bytes()[:1000])
        case "empty":
            file.write_bytes(b"")
        case "no variables":
            shutil.rmtree(draft / "variables")
        case "no serve tag":
            file.write_bytes(file.read_bytes().replace(b"\x05serve", b"\x05other"))
    models.finish(draft)
    until(lambda: client.states() == {2: "END", 1: "AVAILABLE"})
    (told,) = client.statuses(version=2)
    assert (told.status.error_code != 0, told.status.error_message != "") == (True, True)
    assert client.weight() == 2.0
    models.publish(3, 4.0)
    until(lambda: client.states() == {3: "AVAILABLE", 2: "END", 1: "END"})


def test_an_incomplete_version_is_skipped_until_it_is_complete(
    models: Models, serve: Serve, until: Until, caplog: pytest.LogCaptureFixture
):
    """Files, links, drafts and directories without a SavedModel are no versions."""
    models.publish(1, 2.0)
    client = serve()
    folder = models.root / "tiny"
    (folder / "3").mkdir()
    (folder / "4").write_text("a file")
    (folder / "latest").symlink_to("1")
    models.draft(5)
    models.publish(2, 3.0)
    until(lambda: client.states() == {2: "AVAILABLE", 1: "END"})
    until(lambda: "3: not a version (yet)" in caplog.text)
    assert client.states().keys() == {1, 2}
    shutil.copytree(folder / "2" / "variables", folder / "3" / "variables")
    shutil.copy(folder / "2" / "saved_model.pb", folder / "3" / "draft")
    (folder / "3" / "draft").rename(folder / "3" / "saved_model.pb")
    until(lambda: client.states().get(3) == "AVAILABLE")
    assert caplog.text.count("3: not a version (yet)") == 1


def test_a_version_with_leading_zeros_is_served_as_its_number(models: Models, serve: Serve):
    """As in TensorFlow Serving."""
    models.publish("00000123")
    assert serve().predict(version=123).model_spec.version.value == 123


def test_a_deleted_version_is_replaced_by_the_previous_one(models: Models, serve: Serve, until: Until):
    """The previous one is loaded again: a rollback."""
    models.publish(1, 2.0)
    newest = models.publish(2, 3.0)
    client = serve()
    shutil.rmtree(newest)
    until(lambda: client.states() == {1: "AVAILABLE", 2: "END"})
    assert client.weight() == 2.0


def test_a_call_finishes_on_a_version_that_is_being_unloaded(models: Models, serve: Serve, until: Until, gates: Gates):
    """The version is UNLOADING while the call runs, then END."""
    models.publish(1, 2.0)
    client = serve()
    gate = gates("a")
    call = client.begin(signature="gate", inputs=gate.inputs)
    until(lambda: gate.is_reached)
    models.publish(2, 3.0)
    until(lambda: client.states() == {2: "AVAILABLE", 1: "UNLOADING"})
    gate.open()
    answer = call.result(20.0)
    assert (answer.outputs["weight"].float_val[0], answer.model_spec.version.value) == (2.0, 1)
    until(lambda: client.states() == {2: "AVAILABLE", 1: "END"})


@pytest.mark.parametrize("directory", [True, False], ids=["empty", "missing"])
def test_the_port_stays_closed_until_every_model_has_a_version(
    models: Models, connect: Callable[[str], Client], until: Until, directory: bool
):
    """As in TensorFlow Serving. While a base path is missing, no other model is loaded either."""
    models.publish(1)
    if directory:
        (models.root / "later").mkdir()
    file = models.configure(models.entry(), models.entry("later"))
    server = ModelServer(Flags(port=0, model_config_file=file, file_system_poll_wait_seconds=0.05))
    looks, scan = [], server._watcher._scan
    server._watcher._scan = lambda config: (looks.append(config.name), scan(config))[1]
    starting = threading.Thread(target=server.start, daemon=True)
    starting.start()
    until(lambda: looks.count("later") > 3)
    if directory:
        until(lambda: [status.state.name for status in server._repository.statuses("tiny")] == ["AVAILABLE"])
    else:
        with pytest.raises(ServableNotFound):
            server._repository.statuses("tiny")
    assert (starting.is_alive(), server.port) == (True, 0)
    models.publish(4, 3.0, name="later")
    starting.join(20.0)
    client = connect(server.address)
    assert (client.weight(), client.weight("later")) == (2.0, 3.0)
    server.stop()


def test_warm_up_runs_before_a_version_is_served(models: Models, serve: Serve, until: Until, gates: Gates):
    """During a warm-up request the new version is LOADING and the old one is served."""
    models.publish(1, 2.0)
    client = serve()
    gate = gates("a")
    models.publish(2, 3.0, warmup=[client.request("", gate.inputs, signature="gate")])
    until(lambda: gate.is_reached)
    assert client.states() == {2: "LOADING", 1: "AVAILABLE"}
    assert client.weight() == 2.0
    gate.open()
    until(lambda: client.states() == {2: "AVAILABLE", 1: "END"})


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"signature": "square", "inputs": {"x": np.arange(3, dtype=np.int32)}}, Status.INVALID_ARGUMENT),
        ({"signature": "absent"}, Status.FAILED_PRECONDITION),
    ],
    ids=["fails in the graph", "no such signature"],
)
def test_a_failed_warm_up_request_fails_the_load(
    models: Models, serve: Serve, until: Until, fields: dict[str, object], code: Status
):
    """The version ends with the request's status, and the old one is still served."""
    models.publish(1, 2.0)
    client = serve()
    models.publish(2, 3.0, warmup=[client.request("tiny"), client.request("tiny", **fields)])
    until(lambda: client.states() == {2: "END", 1: "AVAILABLE"})
    (told,) = client.statuses(version=2)
    assert told.status.error_code == code.value[0]
    assert "warm-up request 1 failed" in told.status.error_message
    assert client.weight() == 2.0


def test_more_than_a_thousand_warm_up_requests_fail_the_load(models: Models, serve: Serve, until: Until):
    """As in TensorFlow Serving; exactly a thousand are accepted."""
    models.publish(1)
    client = serve()
    models.publish(2, warmup=[client.request("tiny")] * 1000)
    until(lambda: client.states() == {2: "AVAILABLE", 1: "END"})
    models.publish(3, warmup=[client.request("tiny")] * 1001)
    until(lambda: client.states() == {3: "END", 2: "AVAILABLE", 1: "END"})
    (told,) = client.statuses(version=3)
    assert "exceeds the maximum (1000)" in told.status.error_message


@pytest.mark.parametrize(
    ("content", "is_fine"),
    [(b"not a TFRecord at all, but long enough", False), (b"", True)],
    ids=["damaged", "empty"],
)
def test_a_damaged_warm_up_file_fails_the_load_and_an_empty_one_does_not(
    models: Models, serve: Serve, until: Until, content: bytes, is_fine: bool
):
    """The status is DATA_LOSS, with a hint at the TFRecord format."""
    models.publish(1)
    client = serve()
    draft = models.draft(2)
    (draft / "assets.extra").mkdir()
    (draft / "assets.extra" / "tf_serving_warmup_requests").write_bytes(content)
    models.finish(draft)
    until(lambda: client.states().get(2) in {"AVAILABLE", "END"})
    (told,) = client.statuses(version=2)
    assert told.status.error_code == (0 if is_fine else Status.DATA_LOSS.value[0])
    assert ("TFRecord format" in told.status.error_message) is not is_fine


def test_warm_up_records_of_unsupported_methods_are_skipped(models: Models, serve: Serve):
    """A recorded Classify request cannot run here, and does not fail the load."""
    draft = models.draft(1)
    (draft / "assets.extra").mkdir()
    log = PredictionLog()
    log.classify_log.request.model_spec.name = "tiny"
    with tf.io.TFRecordWriter(str(draft / "assets.extra" / "tf_serving_warmup_requests")) as writer:
        writer.write(log.SerializeToString())
    models.finish(draft)
    assert serve().states() == {1: "AVAILABLE"}
