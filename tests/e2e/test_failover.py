"""Model servers crash, hang, return garbage and recover during streams: no request fails, no byte differs."""

import concurrent.futures
import signal
import time

import grpc
import pytest

from contract import signatures
from tests.backends import (
    INVALID_RESPONSES,
    NUM_STREAMS,
    Proxy,
    bodies,
    changed,
    left_out,
    refuse,
    spoil_state,
    streams_while,
)
from tests.servers import server_kinds

# For a call to a backend that is not ejected: longer than the streams take on a busy machine.
CALL_TIMEOUT_S = 240


@pytest.fixture(scope="module")
def expected(gateway):
    """The text of each request without any fault."""
    with concurrent.futures.ThreadPoolExecutor(NUM_STREAMS) as pool:
        return list(pool.map(lambda body: gateway.text(**body), bodies()))


class Servers:
    """Two model servers of a kind that the tests of this module share, whatever a test does to them."""

    def __init__(self, kind, models_dir, folder):
        self._kind, self._models_dir, self._folder, self._num_started = kind, models_dir, folder, 0
        self.running = [self._start(None) for _ in range(2)]

    def kill(self, index):
        self.running[index].end(signal.SIGKILL)

    def restart(self, index):
        """Restart a server on its port, and wait until it serves."""
        self.running[index] = self._start(self.running[index].port)

    def restore(self):
        """Wake or restart the servers that earlier tests stopped or killed."""
        for index, server in enumerate(self.running):
            if server.process.poll() is None:
                server.send(signal.SIGCONT)
            else:
                self.restart(index)

    def _start(self, port):
        self._num_started += 1
        return self._kind(self._models_dir, self._folder / f"{self._num_started}.log", port=port)


@pytest.fixture(scope="module", params=server_kinds())
def shared_servers(request, four_models_dir, tmp_path_factory):
    servers = Servers(request.param, four_models_dir, tmp_path_factory.mktemp("servers"))
    yield servers
    for server in servers.running:
        server.end()


@pytest.fixture
def servers(shared_servers):
    """The two servers, both alive."""
    shared_servers.restore()
    return shared_servers


@pytest.fixture
def pair(servers, four_models_dir, start_gateway):
    """The two servers and a gateway in front of both."""
    backends = ",".join(f"127.0.0.1:{server.port}" for server in servers.running)
    gateway = start_gateway(repository=four_models_dir, backends=backends, call_timeout_s=CALL_TIMEOUT_S)
    gateway.wait_until(lambda: left_out(gateway) == [])
    return servers, gateway


def test_a_hanging_backend_is_ejected_and_readmitted_when_it_wakes(pair, expected):
    servers, gateway = pair
    first = servers.running[0]
    started = time.monotonic()
    try:
        assert streams_while(gateway, lambda: first.send(signal.SIGSTOP)) == expected
        assert time.monotonic() - started < CALL_TIMEOUT_S / 2
        assert left_out(gateway) == [first.port]
    finally:
        first.send(signal.SIGCONT)
    gateway.wait_until(lambda: left_out(gateway) == [])
    with concurrent.futures.ThreadPoolExecutor(NUM_STREAMS) as pool:
        assert list(pool.map(lambda body: gateway.streamed_text(**body), bodies())) == expected


def test_sequences_survive_a_restart_of_the_only_backend(servers, four_models_dir, start_gateway, expected):
    # Alongside other tests, starting a model server takes as long as the default grace period.
    gateway = start_gateway(repository=four_models_dir, backend=servers.running[0].port, backend_grace_s=120)

    def restart():
        servers.kill(0)
        servers.restart(0)

    assert streams_while(gateway, restart) == expected


FAULTS = {
    **{code.name: refuse(code) for code in grpc.StatusCode if code is not grpc.StatusCode.OK},
    **INVALID_RESPONSES,
    "not a number": changed(spoil_state),
}


def test_calls_that_a_backend_fails_are_retried_on_another_backend(servers, four_models_dir, start_gateway, gateway):
    """Every gRPC code and every kind of invalid response: the bytes stay the same; afterwards it is readmitted."""
    real = servers.running
    proxy = Proxy(real[0].port)
    try:
        both = start_gateway(repository=four_models_dir, backends=f"127.0.0.1:{proxy.port},127.0.0.1:{real[1].port}")
        wanted = bodies(max_tokens=60)[:12]
        expected = [gateway.text(**body) for body in wanted]
        for name, fault in FAULTS.items():
            both.wait_until(lambda: left_out(both) == [])
            proxy.fault, proxy.num_faults = fault, 0
            deadline = time.monotonic() + 30
            # A readmitted backend may still have to pass the determinism probe.
            while proxy.num_faults == 0:
                assert time.monotonic() < deadline, name
                with concurrent.futures.ThreadPoolExecutor(12) as pool:
                    assert list(pool.map(lambda body: both.text(**body), wanted)) == expected, name
            proxy.fault = None
            both.wait_until(lambda: left_out(both) == [])
    finally:
        proxy.end()


def test_sequences_of_a_killed_backend_continue_on_the_other(pair, expected):
    servers, gateway = pair
    assert streams_while(gateway, lambda: servers.kill(0)) == expected
    assert left_out(gateway) == [servers.running[0].port]


def test_an_unavailable_backend_is_a_503_after_the_grace_period(shared_servers, four_models_dir, start_gateway):
    gateway = start_gateway(repository=four_models_dir, backend=shared_servers.running[1].port, backend_grace_s=0.5)
    shared_servers.kill(1)
    body = {"model": "lstm", "prompt": "It was", "max_tokens": 5}
    status, response = gateway.post(body)
    assert (status, response["error"]["code"]) == (503, "backend_unavailable")
    *_, last = gateway.stream(**body)
    assert last["error"]["code"] == "backend_unavailable"


def rejections(gateway, reason):
    """Return how many calls the gateway's backends have rejected for a reason."""
    return gateway.metrics()["sostenuto_call_rejections_total", (("reason", reason),)]


@pytest.mark.parametrize("kind", server_kinds())
def test_calls_that_a_busy_backend_rejects_are_retried(
    kind, four_models_dir, own_model_server, start_gateway, expected
):
    server = own_model_server(four_models_dir, "--grpc_max_threads=3", kind=kind)
    gateway = start_gateway(repository=four_models_dir, backend=server.port, max_calls=8)
    assert streams_while(gateway, lambda: None) == expected
    assert rejections(gateway, "busy") > 0
    assert left_out(gateway) == []


BATCHING = """
max_batch_size { value: 64 }
batch_timeout_micros { value: 5000 }
num_batch_threads { value: 2 }
max_enqueued_batches { value: 100 }
"""


@pytest.mark.parametrize("kind", server_kinds()[1:])
def test_a_backend_that_merges_calls_is_told_apart_from_a_faulty_one(
    kind, four_models_dir, tmp_path, own_model_server, start_gateway, expected
):
    """TensorFlow Serving with `--enable_batching`: errors say what to change, no text differs, and it stays."""
    file = tmp_path / "batching.config"
    file.write_text(BATCHING + "".join(f"allowed_batch_sizes: {size}\n" for size in signatures.BATCH_SIZES))
    # With threads for all calls, so that no call is refused for another reason.
    flags = "--enable_batching=true", f"--batching_parameters_file={file}", "--grpc_max_threads=64"
    server = own_model_server(four_models_dir, *flags, kind=kind)
    gateway = start_gateway(repository=four_models_dir, backend=server.port, max_calls=8, backend_grace_s=2)
    with concurrent.futures.ThreadPoolExecutor(NUM_STREAMS) as pool:
        answers = list(pool.map(gateway.post, bodies()))
    for (status, answer), text in zip(answers, expected, strict=True):
        if status == 200:
            assert answer["choices"][0]["text"] == text
        else:
            assert (status, answer["error"]["code"]) == (503, "backend_unavailable")
            assert "start it without --enable_batching" in answer["error"]["message"]
            assert text.startswith(answer["choices"][0]["text"])
    assert rejections(gateway, "batching") > 0
    assert left_out(gateway) == []
