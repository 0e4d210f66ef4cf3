"""Calls that run at once or are rejected."""

from collections.abc import Callable

import grpc
import numpy as np

from tests.unit.model_server.model_folder import Models
from tests.unit.model_server.serving_client import Client
from tests.unit.model_server.tiny_model import Gate

Status = grpc.StatusCode
Until = Callable[[Callable[[], object]], None]
Serve = Callable[..., Client]
Gates = Callable[[str], Gate]
Refusal = Callable[[Callable[[], object]], tuple[Status, str]]


def test_all_threads_but_one_run_calls(models: Models, serve: Serve, until: Until, gates: Gates):
    """All calls are inside TensorFlow before the first can return."""
    models.publish(1)
    client = serve(grpc_max_threads=6)
    waiting = [gates(str(number)) for number in range(5)]
    calls = [client.begin(signature="take", inputs=gate.inputs) for gate in waiting]
    give = client.server._repository.find("tiny").signature("give")
    try:
        until(lambda: all(gate.is_reached for gate in waiting))
    finally:  # not by a call: if the claim is false, no thread may be free for it
        give({"values": np.arange(5, dtype=np.float32)})
    assert sorted(call.result(20.0).outputs["value"].float_val[0] for call in calls) == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_concurrent_calls_do_not_mix_their_batches(models: Models, serve: Serve):
    """Each caller gets the outputs of its own inputs, in their shape."""
    models.publish(1)
    client = serve(grpc_max_threads=17)
    calls = [client.begin(inputs={"x": np.full((1 + i % 5, 3), i, np.float32)}) for i in range(16)]
    for i, call in enumerate(calls):
        assert list(call.result(20.0).outputs["y"].float_val) == [2.0 * i] * (1 + i % 5) * 3


def test_one_call_more_is_rejected_at_once(models: Models, serve: Serve, until: Until, gates: Gates, refusal: Refusal):
    """With three threads two calls run, and the third is RESOURCE_EXHAUSTED: there is no queue."""
    models.publish(1)
    client = serve(grpc_max_threads=3)
    waiting = [gates("a"), gates("b")]
    calls = [client.begin(signature="gate", inputs=gate.inputs) for gate in waiting]
    until(lambda: all(gate.is_reached for gate in waiting))
    assert refusal(lambda: client.states(version=1))[0] is Status.RESOURCE_EXHAUSTED
    for gate in waiting:
        gate.open()
    assert [call.result(20.0).outputs["weight"].float_val[0] for call in calls] == [2.0] * 2
