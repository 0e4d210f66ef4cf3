"""The end of a model server's connection; what its calls do is seen end to end."""

import concurrent.futures

import grpc
import pytest

from service.errors import BackendUnavailable
from service.servers.backend import GrpcBackend
from service.servers.protos import get_model_status_pb2, model_service_pb2_grpc


class _Answers(model_service_pb2_grpc.ModelServiceServicer):
    def GetModelStatus(self, _request, _context):
        response = get_model_status_pb2.GetModelStatusResponse()
        response.model_version_status.add(version=7)
        return response


def test_what_was_closed_stays_closed():
    """A server that left the name while it was late is closed, and then given up: that opens no new connection."""
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
