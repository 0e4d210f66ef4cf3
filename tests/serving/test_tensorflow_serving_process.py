"""TensorFlow Serving's executable does what docker-compose.yml and deploy/kubernetes expect beside the calls."""

import signal
import socket
import urllib.request

import grpc
import pytest

from contract import signatures
from tests.paths import ROOT
from tests.ports import free_port
from tests.servers import TensorFlowServing
from tests.serving.client import Client
from tests.serving.conftest import needs_tensorflow_serving
from tests.serving.given import Server
from tests.serving.repository import MAX_BATCH_SIZE
from tests.serving.tensors import make_call
from tests.waiting import until

pytestmark = needs_tensorflow_serving
MONITORING = ROOT / "deploy/tensorflow-serving/monitoring.config"
NUM_THREADS = 4
# HealthCheckResponse with status SERVING.
SERVING = bytes((8, 1))


@pytest.fixture(scope="module")
def process(serving_models, tmp_path_factory):
    """A server with the flags of this file; `rest_port` is that of its metrics, and opens last."""
    rest_port = free_port()
    flags = [f"--rest_api_port={rest_port}", f"--monitoring_config_file={MONITORING}"]
    flags += ["--enable_grpc_healthcheck_service=true", f"--grpc_max_threads={NUM_THREADS}"]
    started = TensorFlowServing(serving_models, tmp_path_factory.mktemp("process") / "log", flags=flags)
    started.rest_port = rest_port
    started.wait_until(lambda: can_connect(rest_port))
    yield started
    started.end(signal.SIGKILL)


@pytest.fixture
def client(process):
    client = Client(f"127.0.0.1:{process.port}")
    yield client
    client.channel.close()


def can_connect(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def get(process, path):
    with urllib.request.urlopen(f"http://127.0.0.1:{process.rest_port}{path}", timeout=60) as response:
        return response.read().decode()


def test_prometheus_gets_metrics_from_the_rest_port(process):
    assert "\n# TYPE :tensorflow:cc:saved_model:load_latency counter\n" in get(
        process, "/monitoring/prometheus/metrics"
    )


def test_the_rest_api_decodes_percent_escapes_in_names(process):
    assert '"state": "AVAILABLE"' in get(process, "/v1/models/%6Cstm")


def test_the_health_service_answers_for_the_whole_server(client):
    assert client.channel.unary_unary("/grpc.health.v1.Health/Check")(b"") == SERVING


def test_calls_beyond_its_threads_are_refused_at_once(client, serving_models):
    """One thread polls, and each other one runs a call. The gateway retries a refused call elsewhere."""
    card = Server(client.address, serving_models).card("lstm")
    inputs = make_call(signatures.DECODE, card, MAX_BATCH_SIZE, steps=20 * card.max_decode_steps)
    # More than the threads, as calls may arrive in any order.
    calls = [client.begin("lstm", signatures.DECODE, inputs) for _ in range(4 * NUM_THREADS)]
    until(lambda: any(call.done() and call.exception() for call in calls))
    assert not all(call.done() for call in calls)
    refused = [call.exception() for call in calls if call.done() and call.exception()]
    assert {(error.code(), error.details()) for error in refused} == {
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "Server Threadpool Exhausted")
    }


def test_sigterm_ends_it_while_it_computes(process):
    assert process.end(signal.SIGTERM) == -signal.SIGTERM
