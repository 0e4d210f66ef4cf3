"""Calls that run at once, wait in the queue, or are rejected."""

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


def test_as_many_calls_run_concurrently_as_there_are_threads(models: Models, serve: Serve, until: Until, gates: Gates):
    """All calls are inside TensorFlow before the first can return."""
    models.publish(1)
    client = serve(grpc_max_threads=5)
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
    client = serve(grpc_max_threads=8)
    calls = [client.begin(inputs={"x": np.full((1 + i % 5, 3), i, np.float32)}) for i in range(16)]
    for i, call in enumerate(calls):
        assert list(call.result(20.0).outputs["y"].float_val) == [2.0 * i] * (1 + i % 5) * 3


def test_a_call_beyond_the_queue_is_rejected(
    models: Models, serve: Serve, until: Until, gates: Gates, refusal: Refusal
):
    """With one thread one call runs, one waits, and the third is RESOURCE_EXHAUSTED at once."""
    models.publish(1)
    client = serve(grpc_max_threads=1)
    gate = gates("a")
    calls = [client.begin(signature="gate", inputs=gate.inputs) for _ in range(2)]
    until(lambda: gate.is_reached)
    until(lambda: refusal(lambda: client.states(version=1))[0] is Status.RESOURCE_EXHAUSTED)
    gate.open()
    assert [call.result(20.0).outputs["weight"].float_val[0] for call in calls] == [2.0] * 2


def test_a_call_that_expires_in_the_queue_is_not_computed(
    models: Models, serve: Serve, until: Until, gates: Gates, refusal: Refusal
):
    """It never reaches its gate, while a later call does."""
    models.publish(1)
    client = serve(grpc_max_threads=1)
    first, second, third = gates("first"), gates("second"), gates("third")
    running = client.begin(signature="gate", inputs=first.inputs)
    until(lambda: first.is_reached)
    request = client.request("tiny", second.inputs, signature="gate")
    assert refusal(lambda: client.prediction.Predict(request, timeout=0.2))[0] is Status.DEADLINE_EXCEEDED
    first.open()
    third.open()
    running.result(20.0)
    client.predict(signature="gate", inputs=third.inputs)
    assert third.is_reached
    assert not second.is_reached
