"""The gRPC client's connections and errors; its predictions are tested end to end."""

import concurrent.futures

import grpc
import numpy as np
import pytest

from service.backends.client import GrpcBackend
from service.backends.protos import get_model_status_pb2, model_service_pb2_grpc
from service.errors import BackendUnavailable, BatchingConflict, InternalError, InvalidResponse, ServerBusy
from service.params import ModelVersion


class _Answers(model_service_pb2_grpc.ModelServiceServicer):
    def GetModelStatus(self, _request, _context):
        response = get_model_status_pb2.GetModelStatusResponse()
        response.model_version_status.add(version=7)
        return response


def test_a_closed_client_opens_no_new_connection():
    """A slow backend that left DNS is closed first and ejected later, and ejecting resets the client."""
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(_Answers(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        backend = GrpcBackend(f"127.0.0.1:{port}", timeout_s=5)
        backend.reset()
        assert [status.version for status in backend.versions("any")] == [7]
        backend.close()
        backend.reset()
        with pytest.raises(BackendUnavailable):
            backend.versions("any")
    finally:
        server.stop(None)


class _Serves(grpc.GenericRpcHandler):
    """Answers every method with the same bytes, or with a status code."""

    def __init__(self):
        self.content, self.code, self.message = b"", None, "for the test"

    def service(self, _details):
        def handle(_request, context):
            if self.code is not None:
                context.abort(self.code, self.message)
            return self.content

        return grpc.unary_unary_rpc_method_handler(handle)


@pytest.fixture
def answers():
    """A server whose answers are set, and a client of it."""
    handler, server = _Serves(), grpc.server(concurrent.futures.ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    backend = GrpcBackend(f"127.0.0.1:{port}", timeout_s=5)
    yield handler, backend
    backend.close()
    server.stop(None)


@pytest.mark.parametrize("content", [b"\xff\xff\xffjunk", b""], ids=["no message", "an empty message"])
def test_an_invalid_response_and_a_refusal_are_different_errors(answers, content):
    """A refused call is at fault itself; one with an invalid response may be retried on another replica."""
    handler, backend = answers
    handler.content = content
    ask = (ModelVersion("demo", 1), "prefill", {"state": np.zeros((8, 2), np.float32)}, {"state": (8, 2)})
    with pytest.raises(InvalidResponse):
        backend.predict(*ask)
    handler.code = grpc.StatusCode.INTERNAL
    with pytest.raises(InternalError):
        backend.predict(*ask)


def test_merged_calls_of_different_shapes_are_no_fault_of_the_call(answers, caplog):
    """TensorFlow Serving's batching error is a `BatchingConflict`, and the log says once which flag to remove."""
    handler, backend = answers
    ask = (ModelVersion("demo", 1), "prefill", {"state": np.zeros((8, 2), np.float32)}, {"state": (8, 2)})
    handler.code = grpc.StatusCode.FAILED_PRECONDITION
    with pytest.raises(InternalError):
        backend.predict(*ask)
    caplog.clear()
    handler.message = (
        "Tensors with name 'prefill_token_ids:0' from different tasks have different shapes and padding is turned off."
    )
    for _ in range(3):
        with pytest.raises(BatchingConflict, match="start it without --enable_batching"):
            backend.predict(*ask)
    assert sum("--enable_batching" in record.getMessage() for record in caplog.records) == 1


def test_a_server_that_reports_resource_exhausted_is_busy(answers):
    """It has no free thread for a status request, but it answers."""
    handler, backend = answers
    handler.code = grpc.StatusCode.RESOURCE_EXHAUSTED
    with pytest.raises(ServerBusy):
        backend.versions("demo")
