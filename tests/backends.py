"""Model servers at fault: a proxy that answers in place of one, its faults, and streams that meet them."""

import concurrent.futures
import threading

import grpc
import numpy as np

from service.backends.messages import predict_pb2, to_proto
from tests.conftest import TEXT
from tests.ports import free_port

NUM_STREAMS = 32
PREDICT = "/tensorflow.serving.PredictionService/Predict"


def bodies(max_tokens=2000):
    """Return requests to several models, long enough to be still running when a fault occurs."""
    return [
        {
            "model": ("lstm", "words")[i % 2],
            "prompt": (TEXT * 3)[: 1 + 5 * i % 200],
            "max_tokens": max_tokens,
            "seed": i,
            "ignore_eos": True,
            **({"frequency_penalty": 0.2} if i % 8 == 0 else {}),
        }
        for i in range(NUM_STREAMS)
    ]


def left_out(gateway):
    backends = gateway.get("/v1/status")[1]["backends"]
    return [int(it["address"].rpartition(":")[2]) for it in backends if it["ejected_because"] is not None]


class Proxy(grpc.GenericRpcHandler):
    """A gRPC proxy of a model server that answers Predict with `fault`, if one is set."""

    def __init__(self, port):
        self.fault = None
        self.num_faults = 0
        self.released = threading.Event()
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        self._server = grpc.server(concurrent.futures.ThreadPoolExecutor(16), handlers=[self])
        self.port = self._server.add_insecure_port(f"127.0.0.1:{free_port()}")
        self._server.start()

    def service(self, details):
        method = details.method
        onward = self._channel.unary_unary(method)

        def handle(request, context):
            if method == PREDICT and self.fault is not None:
                self.num_faults += 1
                return self.fault(request, context, onward)
            return onward(request, timeout=20)

        return grpc.unary_unary_rpc_method_handler(handle)

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
