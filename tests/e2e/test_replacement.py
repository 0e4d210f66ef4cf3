"""The only model server is replaced by one at another address, as a drained pod's is: no stream and no request fails.

The new server gets the models one after the other, in whatever order it loads them.
"""

import concurrent.futures

import pytest

from service.backends.messages import get_model_status_pb2
from tests.backends import NUM_STREAMS, Proxy, bodies, left_out, streams_while
from tests.conftest import FOUR_MODELS
from tests.ports import free_port
from tests.servers import joined, mounted, server_kinds, why_no_mounts

pytestmark = pytest.mark.skipif(why_no_mounts() is not None, reason=why_no_mounts() or "")

NAME, OLD, NEW = "servers.test", "127.0.0.2", "127.0.0.3"
STATE = get_model_status_pb2.ModelVersionStatus.State


@pytest.fixture(scope="module", params=server_kinds())
def server(request, four_models_dir, tmp_path_factory):
    """A server of each kind with all models, which is behind both addresses."""
    server = request.param(four_models_dir, tmp_path_factory.mktemp("server") / "log")
    yield server
    server.end()


@pytest.fixture(scope="module")
def expected(gateway):
    """The text of each request without any fault."""
    with concurrent.futures.ThreadPoolExecutor(NUM_STREAMS) as pool:
        return list(pool.map(lambda body: gateway.text(**body), bodies()))


class Replacement:
    """A host name, the gateway that resolves it, and the servers at its addresses."""

    def __init__(self, hosts, port, server, start_gateway, four_models_dir):
        self._hosts, self._port, self._server = hosts, port, server
        self._old, self.new = Proxy(server.port, f"{OLD}:{port}"), None
        self._point_to(OLD)
        self.gateway = start_gateway(
            repository=four_models_dir,
            backends=f"{NAME}:{port}",
            prefix=mounted(hosts, "/etc/hosts"),
            backend_grace_s=120,
        )

    def replace(self, states):
        """Start another server, whose models have these states, and end the old one; wait until the gateway knows."""
        self.new = Proxy(self._server.port, f"{NEW}:{self._port}")
        self.new.states = dict(states)
        self._point_to(NEW)
        self._old.end()
        self.gateway.wait_until(
            lambda: (
                [each["address"] for each in self.gateway.get("/v1/status")[1]["backends"]] == [f"{NEW}:{self._port}"]
            )
        )

    def load(self, name):
        """Let the new server have loaded a model, and wait for its determinism probe."""
        del self.new.states[name]
        self.gateway.wait_until(lambda: self.gateway.output.count(f"model {name} version 1 at {NEW}") > 0)

    def end(self):
        for proxy in filter(None, (self._old, self.new)):
            proxy.end()

    def _point_to(self, address):
        # In place: the file is mounted.
        self._hosts.write_text(f"127.0.0.1 localhost\n{address} {NAME}\n")


@pytest.fixture
def replacement(server, start_gateway, four_models_dir, tmp_path):
    replacement = Replacement(tmp_path / "hosts", free_port(), server, start_gateway, four_models_dir)
    yield replacement
    replacement.end()


def short_requests(pool, gateway):
    """Send a short request to each model; return the responses to come, by model."""
    body = {"prompt": "It was", "max_tokens": 8, "seed": 1}
    return {name: pool.submit(gateway.post, {**body, "model": name}) for name in FOUR_MODELS}


def test_streams_and_new_requests_wait_for_models_that_are_loaded(replacement, expected):
    """Every order is possible, and requests of a loaded model do not wait for the others."""
    gateway = replacement.gateway
    with concurrent.futures.ThreadPoolExecutor(len(FOUR_MODELS)) as pool:
        before = {name: answer.result(60) for name, answer in short_requests(pool, gateway).items()}
        answers = {}

        def happen():
            replacement.replace(dict.fromkeys(FOUR_MODELS, STATE.LOADING))
            answers.update(short_requests(pool, gateway))
            for number, name in enumerate(reversed(FOUR_MODELS)):
                replacement.load(name)
                text, text_before = (each[1]["choices"][0]["text"] for each in (answers[name].result(60), before[name]))
                assert text == text_before
                assert sum(answer.done() for answer in answers.values()) == number + 1

        assert streams_while(gateway, happen) == expected
    assert {answer.result()[0] for answer in answers.values()} == {200}
    assert left_out(gateway) == []


def test_only_the_streams_of_a_model_that_cannot_be_loaded_fail(replacement, expected):
    gateway, last = replacement.gateway, FOUR_MODELS[-1]

    def happen():
        replacement.replace(dict.fromkeys(FOUR_MODELS, STATE.START))
        for name in FOUR_MODELS[:-1]:
            replacement.load(name)
        replacement.new.states[last] = STATE.END

    outcomes = streams_while(gateway, happen, list)
    for body, events, text in zip(bodies(), outcomes, expected, strict=True):
        if body["model"] != last:
            assert joined(events) == text
        else:
            assert events[-1]["error"]["code"] == "version_gone"
            assert text.startswith(joined([event for event in events[:-1] if "error" not in event]))
    assert gateway.post({"model": last, "prompt": "It was"})[1]["error"]["code"] == "model_loading"
