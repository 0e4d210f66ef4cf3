"""A server in this process: start and stop, its threads, TLS, and the config file that it follows."""

import contextlib
import logging
import re
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from grpc import StatusCode

from model_server import server as module
from model_server.config import read_config
from model_server.errors import ModelServerError
from model_server.flags import Flags
from model_server.server import ModelServer
from tests.certificates import make_certificate, ssl_config
from tests.ports import free_port
from tests.serving.client import refusal, states_of
from tests.waiting import until

X = {"x": np.array([[1, 2, 3]], np.float32)}


def weight(client, name="tiny"):
    """Return the weight of the version that responds; it tells versions apart."""
    return client.predict(name, "", X)["total"].item() / 6


def test_the_port_stays_closed_until_every_model_has_a_version(models, connect):
    models.publish(1)
    (models.root / "later").mkdir()
    file = models.configure("tiny", "later")
    server = ModelServer(Flags(port=0, model_config_file=file, file_system_poll_wait_seconds=0.05))
    starting = threading.Thread(target=server.start, daemon=True)
    starting.start()
    until(lambda: server._manager._served[0].get("tiny"))
    assert (starting.is_alive(), server.port) == (True, 0)
    models.publish(4, 3.0, name="later")
    starting.join(20.0)
    client = connect(server.address)
    assert (weight(client), weight(client, "later")) == (2.0, 3.0)
    server.stop()


def test_the_port_opens_although_a_version_fails_to_load(models, serve):
    models.publish(1)
    (models.publish(1, name="broken") / "saved_model.pb").write_bytes(b"torn")
    models.configure("tiny", "broken")
    _, client = serve()
    assert client.states("broken") == {1: "END"}
    assert weight(client) == 2.0


def test_a_single_model_needs_no_config_file(models, serve):
    models.publish(1)
    _, client = serve(model_config_file=None, model_name="mine", model_base_path=models.root / "tiny")
    assert weight(client, "mine") == 2.0


def test_models_root_replaces_slash_models_in_base_paths(models, serve, tmp_path):
    models.publish(1, 2.0)
    models.publish(1, 3.0, name="other")
    other = models.configure("other").read_text()
    file = models.configure("tiny").rename(tmp_path / "elsewhere.config")
    _, client = serve(model_config_file=file, models_root=models.root)
    assert weight(client) == 2.0
    client.reload(other)
    assert weight(client, "other") == 3.0


def test_a_port_taken_while_the_models_load_is_refused(models, serve, gates):
    gate, port = gates("a"), free_port()
    models.publish_gated(1, gate)
    models.publish(1, name="other")
    late = ModelServer(Flags(port=port, model_config_file=models.config_file))
    starting = ThreadPoolExecutor(1).submit(late.start)
    until(lambda: gate.is_reached)
    serve(port=port, model_config_file=None, model_name="other", model_base_path=models.root / "other")
    gate.open()
    with pytest.raises(ModelServerError) as caught:
        starting.result(20.0)
    late.stop()
    assert caught.value.code is StatusCode.UNAVAILABLE


@pytest.mark.parametrize("host", ["no.such.host.invalid", "no..host"])
def test_a_host_without_an_address_is_refused(models, host):
    with pytest.raises(ModelServerError, match=rf"cannot listen on {re.escape(host)}:"):
        ModelServer(Flags(host=host, port=0, model_config_file=models.config_file)).start()


def test_all_threads_but_one_run_calls_and_one_more_is_rejected_at_once(models, serve, gates):
    models.publish(1)
    server, client = serve(grpc_max_threads=6)
    waiting = [gates(str(number)) for number in range(5)]
    calls = [client.begin("tiny", "take", gate.inputs) for gate in waiting]
    give = server._manager.find("tiny").signature("give")
    try:
        until(lambda: all(gate.is_reached for gate in waiting))
        assert client.begin("tiny", "", X).code() is StatusCode.RESOURCE_EXHAUSTED
    finally:  # not by a call: if the claim is false, no thread may be free for it
        give({"values": np.arange(5, dtype=np.float32)})
    assert sorted(call.result(20.0).outputs["value"].float_val[0] for call in calls) == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_with_client_verify_only_certificates_of_custom_ca_are_accepted(models, serve, connect, tmp_path):
    """A client without one, with one of another authority, or without TLS sees UNAVAILABLE."""
    made = {name: make_certificate(tmp_path, name) for name in ("server", "client", "stranger")}
    ssl_config(tmp_path / "ssl.config", made["server"], made["client"])
    models.publish(1)
    server, plain = serve(ssl_config_file=tmp_path / "ssl.config")

    def client(name=None):
        own = (made[name].key.read_bytes(), made[name].cert.read_bytes()) if name else (None, None)
        return connect(server.address, grpc.ssl_channel_credentials(made["server"].cert.read_bytes(), *own))

    assert weight(client("client")) == 2.0
    for other in (client(), client("stranger"), plain):
        assert refusal(lambda other=other: weight(other))[0] is StatusCode.UNAVAILABLE


def test_the_config_file_is_followed(models, serve, caplog, monkeypatch):
    caplog.set_level(logging.INFO, "model_server")
    readings = []
    monkeypatch.setattr(module, "read_config", lambda *where: (readings.append(where), read_config(*where))[1])
    models.publish(1, 2.0)
    models.publish(2, 3.0)
    only = "model_version_policy {{ specific {{ versions: {} }} }}".format
    file = models.configure("tiny", extra=only(1))
    server, client = serve(model_config_file_poll_wait_seconds=0.02)
    for content, told in (
        ("", "Invalid argument: the file is empty"),
        ("# nothing", "It is only legal to transition from one ModelConfigList to another."),
        ("oops", "invalid models.config"),
        (None, "cannot be read (No such file"),
    ):
        file.unlink() if content is None else file.write_text(content)
        until(lambda told=told: told in caplog.text)
        seen = len(readings)
        until(lambda seen=seen: len(readings) > seen + 2)
        assert caplog.text.count(told) == 1
    assert weight(client) == 2.0
    models.configure("tiny", extra=only(2))
    until(lambda: client.states("tiny") == {2: "AVAILABLE", 1: "END"})
    client.reload("model_config_list {}")
    until(lambda: caplog.text.count("config file reloaded, models: tiny") == 2)
    until(lambda: client.states("tiny")[2] == "AVAILABLE")
    shutil.copytree(models.root / "tiny", models.root / "broken")
    (models.root / "broken/2/saved_model.pb").write_bytes(b"damaged")
    models.configure("tiny", "broken")
    until(lambda: "config file applied, but 1 model(s) did not become available" in caplog.text)
    models.configure()
    until(lambda: client.states("tiny")[2] == "END")
    assert server._manager.config == {}


def test_a_server_started_without_a_model_list_serves_the_first_one(models, serve):
    models.publish(1)
    models.config_file.write_text("# nothing yet")
    server, client = serve(model_config_file_poll_wait_seconds=0.02)
    assert (server._manager.config, refusal(lambda: weight(client))[0]) == (None, StatusCode.NOT_FOUND)
    models.configure("tiny")

    def states():
        # Listed before its directory is scanned, a model has no version.
        with contextlib.suppress(ModelServerError):
            return states_of(server._manager.statuses("tiny"))

    until(lambda: states() == {1: "AVAILABLE"})
