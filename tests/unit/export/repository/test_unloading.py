"""A removal waits until model servers have unloaded the model, or until its time limit."""

import re
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from export.errors import RepositoryError
from export.repository import removal
from export.repository.removal import ServerWatch, wait_until_unloaded

AVAILABLE, UNLOADING, END = 30, 40, 50


class Clock:
    """A clock that only `sleep` advances."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Replace the clock, so that waiting takes no time."""
    made = Clock()
    monkeypatch.setattr(removal, "time", made)
    return made


def watch(*answers, servers=("127.0.0.1:1",), names=("m",)):
    """Watch a server with these successive answers, of which the last repeats; each is a dict or None."""
    left = list(answers)
    return ServerWatch(servers, names, lambda *_: left.pop(0) if len(left) > 1 else left[0])


def test_the_wait_ends_when_a_server_unloads_the_model(clock):
    serving = {1: END, 2: AVAILABLE}
    wait_until_unloaded(watch(serving, serving, {1: END, 2: UNLOADING}, {1: END, 2: END}), "m", 15.0)
    assert clock.now == 1.0


@pytest.mark.parametrize("answer", [{1: END}, {}, None], ids=["of versions before", "never loaded", "no answer"])
@pytest.mark.parametrize("servers", [("127.0.0.1:1",), ()])
def test_a_server_that_never_reported_the_model_or_none_does_not_end_the_wait(clock, capsys, answer, servers):
    wait_until_unloaded(watch(answer, servers=servers), "m", 15.0)
    assert clock.now == 15.0
    told = "m was removed from models.config; waiting up to 15 s until model servers have unloaded it\n"
    assert capsys.readouterr().out == told


def test_the_wait_lasts_until_every_server_has_unloaded_the_model():
    states = {("127.0.0.1:1", "m"): {1: AVAILABLE}, ("127.0.0.1:2", "m"): {1: AVAILABLE}}
    made = ServerWatch(("127.0.0.1:1", "127.0.0.1:2"), ["m"], lambda *key: states[key])
    states["127.0.0.1:1", "m"] = {1: END}
    made.query()
    assert not made.is_unloaded()
    states["127.0.0.1:2", "m"] = {1: END}
    made.query()
    assert made.is_unloaded()


def test_a_server_that_still_serves_the_model_is_named_in_the_error():
    told = r"^127\.0\.0\.1:1 still serves m \(version 2\) 15 s after it was removed .* so its files were not deleted"
    with pytest.raises(RepositoryError, match=told):
        wait_until_unloaded(watch({1: END, 2: AVAILABLE}), "m", 15.0)


@pytest.mark.parametrize("host", ["nosuch.invalid", "no..such"])
def test_a_host_that_does_not_resolve_is_named_in_the_error(host):
    """The watch is created before anything is changed."""
    with pytest.raises(RepositoryError, match=rf"^model server {re.escape(host)}:8500: "):
        watch(None, servers=(f"{host}:8500",))


def test_status_is_queried_over_grpc():
    from tensorflow_serving.apis import get_model_status_pb2, model_service_pb2_grpc

    class Service(model_service_pb2_grpc.ModelServiceServicer):
        def GetModelStatus(self, request, context):
            if request.model_spec.name != "m":
                context.abort(grpc.StatusCode.NOT_FOUND, "Could not find any versions of model n")
            response = get_model_status_pb2.GetModelStatusResponse()
            response.model_version_status.add(version=3, state=AVAILABLE)
            return response

    server = grpc.server(ThreadPoolExecutor(1))
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(Service(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    get_states = removal._status_client()
    assert get_states(f"127.0.0.1:{port}", "m") == {3: AVAILABLE}
    assert get_states(f"127.0.0.1:{port}", "n") is None
    server.stop(None).wait()
    assert get_states(f"127.0.0.1:{port}", "m") is None
