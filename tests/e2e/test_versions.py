"""Versions are promoted, shared out, rolled back and removed while requests run, and none of them notices."""

import threading
import time
from collections import Counter

import pytest

from export.cli import main
from tests.conftest import publish_model

BODY = {"model": "demo", "prompt": "It was", "max_tokens": 40}


@pytest.fixture
def served(versions_dir, own_model_server, start_gateway):
    """A repository with three versions of a model, and a gateway in front of it."""
    server = own_model_server(versions_dir)
    gateway = start_gateway(repository=versions_dir, backend=server.port)
    gateway.wait_until(lambda: [entry["version"] for entry in entries(gateway)] == [2, 3])
    return versions_dir, gateway


def entries(gateway):
    """Return what is told of the model's versions."""
    status, model = gateway.get("/v1/models/demo")
    return model["versions"] if status == 200 else []


def command(folder, *arguments):
    """Run a command of the exporter on the repository."""
    assert main([*arguments, "--models-dir", str(folder)]) == 0


class Load:
    """Requests from several threads, one after another, until it is stopped."""

    def __init__(self, gateway, num_threads=12):
        self.answers: list[tuple[float, int, dict]] = []
        self._gateway, self._ended = gateway, threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(i,)) for i in range(num_threads)]
        for thread in self._threads:
            thread.start()

    def _run(self, seed):
        while not self._ended.is_set():
            seed += 100
            status, answer = self._gateway.post({**BODY, "seed": seed})
            self.answers.append((time.monotonic(), status, answer))

    def versions_since(self, moment):
        """Count the versions of the answers that came after a moment."""
        return Counter(answer["version"] for when, _, answer in self.answers if when > moment)

    def stop(self):
        """End the threads, and fail unless every request succeeded."""
        self._ended.set()
        for thread in self._threads:
            thread.join()
        assert {status for _, status, _ in self.answers} == {200}


def test_promotions_canaries_and_rollbacks_fail_nobody(served):
    """Each takes effect within moments; what runs stays on its version, and every answer is that of one version."""
    folder, gateway = served
    of_version = {n: gateway.text(**{**BODY, "model": f"demo:{n}", "seed": 7}) for n in (2, 3)}
    assert of_version[2] != of_version[3]
    load = Load(gateway)
    long = {**BODY, "seed": 7, "max_tokens": 4000}
    running = gateway.stream(**long)
    first = next(running)
    assert first["version"] == 3

    command(folder, "promote", "demo:2")
    gateway.wait_until(lambda: gateway.post({**BODY, "seed": 1})[1]["version"] == 2)
    assert gateway.text(**BODY, seed=7) == of_version[2]
    assert gateway.text(**{**BODY, "model": "demo@stable"}, seed=7) == of_version[2]

    command(folder, "promote", "demo:3", "--label", "canary")
    (folder / "routing.toml").write_text("[demo]\nstable = 70\ncanary = 30\n")
    gateway.wait_until(lambda: [entry["share"] for entry in entries(gateway)] == [0.7, 0.3])
    assert [entry["labels"] for entry in entries(gateway)] == [["stable"], ["canary", "previous"]]
    shared = [gateway.post({**BODY, "seed": seed})[1]["version"] for seed in range(60)]
    assert 5 <= shared.count(3) <= 35
    assert [gateway.post({**BODY, "seed": seed})[1]["version"] for seed in range(60)] == shared
    status, answer = gateway.post({**BODY, "model": "demo@canary", "seed": 7})
    assert (status, answer["choices"][0]["text"]) == (200, of_version[3])

    (folder / "routing.toml").unlink()
    # One that is not served yet: until it is loaded, the one before it answers.
    command(folder, "promote", "demo:1")
    gateway.wait_until(lambda: gateway.post({**BODY, "seed": 1})[1]["version"] == 1)
    command(folder, "rollback", "demo")
    gateway.wait_until(lambda: gateway.post({**BODY, "seed": 1})[1]["version"] == 2)
    moment = time.monotonic() + 1
    publish_model(folder, "demo", seed=4)
    gateway.wait_until(lambda: 4 in [entry["version"] for entry in entries(gateway)])
    time.sleep(1)
    # Published is not promoted: where there are labels it waits for one.
    assert set(load.versions_since(moment)) == {2}
    load.stop()
    texts = [choice["text"] for event in [first, *running] if event for choice in event["choices"]]
    assert "".join(texts) == gateway.text(**{**long, "model": "demo:3"})
    by_seed = {}
    for _, _, answer in load.answers:
        known = by_seed.setdefault((answer["seed"], answer["version"]), answer["choices"])
        assert known == answer["choices"]


def test_labels_outlast_a_restart(versions_dir, own_model_server, start_gateway):
    """A model server that begins anew serves what has a label, and a gateway that never saw it set goes by it."""
    command(versions_dir, "promote", "demo:1")
    server = own_model_server(versions_dir)
    gateway = start_gateway(repository=versions_dir, backend=server.port)
    gateway.wait_until(lambda: [entry["version"] for entry in entries(gateway)] == [1, 2, 3])
    assert gateway.post(BODY)[1]["version"] == 1
    command(versions_dir, "rollback", "demo")
    gateway.wait_until(lambda: gateway.post(BODY)[1]["version"] == 3)


def test_what_is_not_there_is_told_with_what_is(served):
    """A version or a label that cannot be had is 404, in every form of address."""
    _, gateway = served
    for name, message in {
        "demo:1": "version 1 of model 'demo' is not served; versions are: 2, 3",
        "demo@beta": "model 'demo' has no label 'beta'; labels are: stable",
        "nope:1": "model 'nope' is not served; models are: demo",
    }.items():
        for status, answer in (gateway.post({**BODY, "model": name}), gateway.get(f"/v1/models/{name}")):
            assert (status, answer["error"]["message"]) == (404, message)
    status, answer = gateway.get("/v1/models/demo@stable")
    assert (status, answer["version"]) == (200, 3)


@pytest.mark.parametrize("stream", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_version_that_is_removed_while_it_runs_leaves_the_text_so_far(served, stream):
    """A clear error, with what there is of the text, and the next request is answered by another version."""
    folder, gateway = served
    fields = {**BODY, "model": "demo:3", "seed": 7}
    beginning = gateway.text(**{**fields, "max_tokens": 100})
    fields |= {"max_tokens": 5_000_000, "return_state": True}
    outcome = []

    def run():
        outcome.append([e for e in gateway.stream(**fields) if e] if stream else gateway.post(fields, timeout=120))

    thread = threading.Thread(target=run)
    thread.start()
    gateway.wait_until(lambda: gateway.get("/v1/status")[1]["sequences"]["accepted"] == 1)
    time.sleep(0.5)
    assert main(["remove", "demo:3", "--yes", "--models-dir", str(folder)]) == 0
    thread.join(timeout=120)
    (found,) = outcome
    error = found[-1] if stream else found[1]
    assert error["error"]["code"] == "version_gone"
    assert "send the request again" in error["error"]["message"]
    text = "".join(c["text"] for event in (found if stream else [error]) for c in event["choices"])
    assert text.startswith(beginning)
    # Nobody could go on with it.
    assert not any("state" in choice for choice in error["choices"])
    gateway.wait_until(lambda: gateway.post(BODY)[0] == 200)
