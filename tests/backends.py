"""Model servers at fault: a proxy that answers in place of one, its faults, and streams that meet them."""

import concurrent.futures
import threading

import grpc
import numpy as np

from service.backends.messages import get_model_status_pb2, predict_pb2, to_proto
from tests.conftest import FOUR_MODELS, TEXT
from tests.ports import free_port
from tests.servers import joined

NUM_STREAMS = 32
PREDICT = "/tensorflow.serving.PredictionService/Predict"
GET_MODEL_STATUS = "/tensorflow.serving.ModelService/GetModelStatus"


def bodies(max_tokens=2000):
    """Return requests to four models, long enough to be still running when a fault occurs."""
    return [
        {
            "model": FOUR_MODELS[i % 4],
            "prompt": (TEXT * 3)[: 1 + 5 * i % 200],
            "max_tokens": max_tokens,
            "seed": i,
            "ignore_eos": True,
            **({"frequency_penalty": 0.2} if i % 8 < 4 else {}),
        }
        for i in range(NUM_STREAMS)
    ]


def streams_while(gateway, happen, outcome=joined):
    """Stream all requests concurrently; once half of them have begun, call `happen`; return what came of them."""
    begun, num_begun = threading.Semaphore(0), NUM_STREAMS // 2

    def run(body):
        events = gateway.stream(**body)
        first = next(events)
        begun.release()
        return outcome([first, *events])

    with concurrent.futures.ThreadPoolExecutor(NUM_STREAMS) as pool:
        running = [pool.submit(run, body) for body in bodies()]
        for _ in range(num_begun):
            assert begun.acquire(timeout=120)
        assert sum(text.done() for text in running) < num_begun, "too short to be disturbed"
        happen()
        return [text.result(120) for text in running]


def left_out(gateway):
    backends = gateway.get("/v1/status")[1]["backends"]
    return [int(it["address"].rpartition(":")[2]) for it in backends if it["ejected_because"] is not None]


class Proxy(grpc.GenericRpcHandler):
    """A gRPC proxy of a model server, at an address of its own, that answers Predict with `fault`, if one is set.

    The models in `states` are not available: they have these states, of TensorFlow Serving.
    """

    def __init__(self, port, address=None):
        self.fault = None
        self.num_faults = 0
        self.states = {}
        self.released = threading.Event()
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        self._server = grpc.server(concurrent.futures.ThreadPoolExecutor(16), handlers=[self])
        self.port = self._server.add_insecure_port(address or f"127.0.0.1:{free_port()}")
        self._server.start()

    def service(self, details):
        method = details.method
        onward = self._channel.unary_unary(method)

        def handle(request, context):
            if method == GET_MODEL_STATUS and self.states:
                return self._status(request, onward)
            if method == PREDICT and self.states:
                name = predict_pb2.PredictRequest.FromString(request).model_spec.name
                if name in self.states:
                    context.abort(grpc.StatusCode.NOT_FOUND, "Servable not found")
            if method == PREDICT and self.fault is not None:
                self.num_faults += 1
                return self.fault(request, context, onward)
            return onward(request, timeout=20)

        return grpc.unary_unary_rpc_method_handler(handle)

    def _status(self, request, onward):
        name = get_model_status_pb2.GetModelStatusRequest.FromString(request).model_spec.name
        answer = get_model_status_pb2.GetModelStatusResponse.FromString(onward(request, timeout=20))
        for status in answer.model_version_status:
            status.state = self.states.get(name, status.state)
        return answer.SerializeToString()

    def end(self):
        """Stop the proxy, and release calls that hang."""
        self.released.set()
        self._server.stop(0).wait(10)
        self._channel.close()


def refuse(code):
    """Return a fault that aborts with a gRPC status code."""

    def fault(_request, context, _onward):
        context.abort(code, "for the test")

    return fault


def changed(change):
    """Return a fault that modifies a real response."""

    def fault(request, _context, onward):
        answer = predict_pb2.PredictResponse.FromString(onward(request, timeout=20))
        change(answer)
        return answer.SerializeToString()

    return fault


def spoil_state(answer):
    shape = [dim.size for dim in answer.outputs["state"].tensor_shape.dim]
    answer.outputs["state"].CopyFrom(to_proto(np.full(shape, np.nan, np.float32)))


def other_shape(answer):
    answer.outputs["state"].CopyFrom(to_proto(np.zeros((8, 3), np.float32)))


def foreign_ids(answer):
    for name in ("token_ids", "top_token_ids"):
        if name in answer.outputs:
            shape = [dim.size for dim in answer.outputs[name].tensor_shape.dim]
            answer.outputs[name].CopyFrom(to_proto(np.full(shape, 10**6, np.int32)))


INVALID_RESPONSES = {
    "bytes that are no message": lambda *_: b"\xff\xff\xffjunk",
    "an empty message": lambda *_: b"",
    "no state": changed(lambda answer: answer.outputs.pop("state")),
    "another shape": changed(other_shape),
    "ids outside the vocabulary": changed(foreign_ids),
}
