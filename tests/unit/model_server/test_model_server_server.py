"""Start and stop of the server."""

import socket
import threading
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from model_server.errors import ConfigError, PortUnavailable
from model_server.flags import Flags
from model_server.server import ModelServer
from tests.ports import free_port
from tests.unit.model_server.model_folder import Models
from tests.unit.model_server.serving_client import Client
from tests.unit.model_server.tiny_model import Gate

Until = Callable[[Callable[[], object]], None]
Connect = Callable[[str], Client]
Gates = Callable[[str], Gate]


def test_the_port_opens_only_when_the_models_are_loaded(models: Models, connect: Connect, gates: Gates, until: Until):
    """So a client that can connect gets a response, not NOT_FOUND."""
    gate, port = gates("a"), free_port()
    models.publish(1, warmup=[connect("").request("", gate.inputs, signature="gate")])
    server = ModelServer(Flags(port=port, model_config_file=models.configure()))
    starting = threading.Thread(target=server.start)
    starting.start()
    try:
        until(lambda: gate.is_reached)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=5.0)
        gate.open()
        starting.join(20.0)
        assert connect(f"127.0.0.1:{port}").weight() == 2.0
    finally:
        gate.open()
        starting.join(20.0)
        server.stop()


def test_the_port_opens_although_a_version_fails_to_load(models: Models, connect: Connect):
    """The broken version is END, and the other models are served."""
    models.publish(1)
    draft = models.draft(1, name="broken")
    (draft / "saved_model.pb").write_bytes(b"torn")
    models.finish(draft)
    file = models.configure(models.entry(), models.entry("broken"))
    with ModelServer(Flags(port=0, model_config_file=file, max_num_load_retries=0)) as server:
        client = connect(server.address)
        assert client.states("broken") == {1: "END"}
        assert client.weight() == 2.0


def test_an_aborted_start_leaves_the_port_closed(models: Models, gates: Gates, connect: Connect):
    """`start` returns while a model still loads, so a signal need not wait for it."""
    gate, port = gates("a"), free_port()
    models.publish(1, warmup=[connect("").request("", gate.inputs, signature="gate")])
    server = ModelServer(Flags(port=port, model_config_file=models.configure()))
    server.start(give_up=lambda: gate.is_reached)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5.0)
    gate.open()
    server.stop()


def test_a_single_model_needs_no_config_file(models: Models, connect: Connect):
    """`--model_name` and `--model_base_path` are enough."""
    models.publish(1)
    with ModelServer(Flags(port=0, model_name="mine", model_base_path=models.root / "tiny")) as server:
        assert connect(server.address).weight("mine") == 2.0


def test_models_root_replaces_slash_models_in_base_paths(models: Models, connect: Connect, tmp_path: Path):
    """In the config file and in a reload."""
    models.publish(1, 2.0)
    models.publish(1, 3.0, name="other")
    file = models.configure().rename(tmp_path / "elsewhere.config")
    with ModelServer(Flags(port=0, model_config_file=file, models_root=models.root)) as server:
        client = connect(server.address)
        assert client.weight() == 2.0
        client.reload(models.config(models.entry("other")))
        assert client.weight("other") == 3.0


def test_a_port_in_use_is_refused_before_the_config_is_read(models: Models):
    """Even the port of another model server, which gRPC would share by default."""
    models.publish(1)
    with ModelServer(Flags(port=0, model_config_file=models.configure())) as first:
        second = ModelServer(Flags(port=first.port, model_config_file=Path("/no/such/file")))
        with pytest.raises(PortUnavailable, match=rf"cannot listen on 127.0.0.1:{first.port}: Address already in use"):
            second.start()
        second.stop()


def test_a_port_taken_while_the_models_load_is_refused(models: Models, connect: Connect, gates: Gates, until: Until):
    """By default gRPC would share it with the other server."""
    gate, port = gates("a"), free_port()
    models.publish(1, warmup=[connect("").request("", gate.inputs, signature="gate")])
    models.publish(1, name="other")
    late = ModelServer(Flags(port=port, model_config_file=models.configure()))
    errors: list[Exception] = []

    def start() -> None:
        try:
            late.start()
        except PortUnavailable as error:
            errors.append(error)

    starting = threading.Thread(target=start)
    starting.start()
    until(lambda: gate.is_reached)
    with ModelServer(Flags(port=port, model_name="other", model_base_path=models.root / "other")):
        gate.open()
        starting.join(20.0)
    late.stop()
    assert [type(error) for error in errors] == [PortUnavailable]


def test_a_host_without_an_address_is_refused(models: Models):
    """The error names the host; there is no traceback."""
    with pytest.raises(PortUnavailable, match=r"cannot listen on no\.such\.host\.invalid:"):
        ModelServer(Flags(host="no.such.host.invalid", port=0, model_config_file=models.configure())).start()


def test_a_missing_config_file_fails_the_start(models: Models):
    """As in TensorFlow Serving, even if the file is polled."""
    path = models.root / "absent.config"
    flags = Flags(port=0, model_config_file=path, model_config_file_poll_wait_seconds=1.0)
    with pytest.raises(ConfigError, match=r"absent\.config: cannot be read"):
        ModelServer(flags).start()


def test_a_stopping_server_finishes_running_calls(models: Models, connect: Connect, gates: Gates, until: Until):
    """It accepts no new calls."""
    models.publish(1)
    server = ModelServer(Flags(port=0, model_config_file=models.configure()))
    server.start()
    client, late = connect(server.address), connect(server.address)
    gate = gates("a")
    call = client.begin(signature="gate", inputs=gate.inputs)
    until(lambda: gate.is_reached)
    stopping = threading.Thread(target=server.stop, args=(20.0,))
    stopping.start()
    until(lambda: late.prediction.Predict.future(late.request("tiny"), timeout=9.0).code() is not grpc.StatusCode.OK)
    assert not call.done()
    gate.open()
    assert call.result(20.0).outputs["weight"].float_val[0] == 2.0
    stopping.join(20.0)
    assert not stopping.is_alive()


def test_the_server_stops_although_a_call_outlasts_the_grace_period(
    models: Models, connect: Connect, gates: Gates, until: Until
):
    """The client gets CANCELLED or UNAVAILABLE while the model still computes the call."""
    models.publish(1)
    server = ModelServer(Flags(port=0, model_config_file=models.configure()))
    server.start()
    gate = gates("a")
    call = connect(server.address).begin(signature="gate", inputs=gate.inputs)
    until(lambda: gate.is_reached)
    server.stop(grace_s=0.1)
    assert call.exception(20.0).code() in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)
