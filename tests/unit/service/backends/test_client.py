"""The gRPC client's connections, errors and TLS; its predictions are tested end to end."""

import concurrent.futures
import subprocess

import grpc
import numpy as np
import pytest

from service import errors
from service.backends.client import ModelServerClient, backend_tls
from service.backends.messages import get_model_status_pb2
from service.scheduling.sequence import ModelVersion
from service.settings import Settings
from tests.certificates import make_certificate

CALL = (ModelVersion("demo", 1), "prefill", {"state": np.zeros((8, 2), np.float32)}, {"state": (8, 2)})
STATUS = get_model_status_pb2.GetModelStatusResponse()
STATUS.model_version_status.add(version=7, state=get_model_status_pb2.ModelVersionStatus.AVAILABLE)


class Handler(grpc.GenericRpcHandler):
    """Answers every method with the same bytes, or with a status code."""

    def __init__(self):
        self.content, self.code, self.message = STATUS.SerializeToString(), None, "for the test"

    def service(self, _details):
        def handle(_request, context):
            if self.code is not None:
                context.abort(self.code, self.message)
            return self.content

        return grpc.unary_unary_rpc_method_handler(handle)


@pytest.fixture
def serve():
    """Start a server: without TLS, or with a certificate, and requiring one that `client` has signed."""
    running = []

    def start(handler=None, certificate=None, client=None):
        server = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
        server.add_generic_rpc_handlers((handler or Handler(),))
        if certificate is None:
            port = server.add_insecure_port("127.0.0.1:0")
        else:
            pair = (certificate.key.read_bytes(), certificate.cert.read_bytes())
            trusted = client.cert.read_bytes() if client else None
            credentials = grpc.ssl_server_credentials([pair], trusted, require_client_auth=client is not None)
            port = server.add_secure_port("127.0.0.1:0", credentials)
        server.start()
        running.append(server)
        return port

    yield start
    for server in running:
        server.stop(None)


@pytest.fixture
def answers(serve):
    """A server whose answers are set, and a client of it."""
    handler = Handler()
    client = ModelServerClient(f"127.0.0.1:{serve(handler)}", timeout_s=5)
    yield handler, client
    client.close()


def test_a_closed_client_opens_no_new_connection(answers):
    """A slow backend that left DNS is closed first and ejected later, and ejecting resets the client."""
    _, client = answers
    client.reset()
    assert [status.version for status in client.versions("any")] == [7]
    client.close()
    client.reset()
    with pytest.raises(errors.BackendUnavailable):
        client.versions("any")


@pytest.mark.parametrize("content", [b"\xff\xff\xffjunk", b""], ids=["no message", "an empty message"])
def test_an_invalid_response_a_refusal_and_a_busy_server_are_different_errors(answers, content):
    handler, client = answers
    handler.content = content
    with pytest.raises(errors.InvalidResponse):
        client.predict(*CALL)
    for code, error in (("INTERNAL", errors.InternalError), ("RESOURCE_EXHAUSTED", errors.ServerBusy)):
        handler.code = grpc.StatusCode[code]
        with pytest.raises(error):
            client.predict(*CALL)
    with pytest.raises(errors.ServerBusy):
        client.versions("demo")


def test_merged_calls_of_different_shapes_are_no_fault_of_the_call(answers, caplog):
    """TensorFlow Serving's batching error is a `BatchingConflict`, and the log says once which flag to remove."""
    handler, client = answers
    handler.code = grpc.StatusCode.FAILED_PRECONDITION
    with pytest.raises(errors.InternalError):
        client.predict(*CALL)
    caplog.clear()
    handler.message = (
        "Tensors with name 'prefill_token_ids:0' from different tasks have different shapes and padding is turned off."
    )
    for _ in range(3):
        with pytest.raises(errors.BatchingConflict, match="start it without --enable_batching"):
            client.predict(*CALL)
    assert sum("--enable_batching" in record.getMessage() for record in caplog.records) == 1


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certificates")
    names = {"server": "IP:127.0.0.1", "named": "DNS:models.example", "gateway": "DNS:gateway", "stranger": "DNS:x"}
    return {name: make_certificate(folder, name, to) for name, to in names.items()}


def versions(port, host="127.0.0.1", **settings):
    """Request the versions of a server as the gateway does, and return them."""
    given = Settings(**{f"backend_tls_{name}": value for name, value in settings.items()})
    tls = {"credentials": backend_tls(given), "certified_name": given.backend_tls_name}
    client = ModelServerClient(f"127.0.0.1:{port}", timeout_s=5, host=host, **tls)
    try:
        return [status.version for status in client.versions("any")]
    finally:
        client.close()


def test_a_server_certificate_must_match_the_authority_and_the_host(made, serve):
    """The host is the name in the settings, not the address: a name may have several; a setting overrides it."""
    port = serve(certificate=made["server"])
    assert versions(port, ca_file=made["server"].cert) == [7]
    for host, authority in (("127.0.0.1", "stranger"), ("other.example", "server")):
        with pytest.raises(errors.BackendUnavailable):
            versions(port, host, ca_file=made[authority].cert)
    # The server does not answer without TLS.
    with pytest.raises(errors.BackendUnavailable):
        versions(port)
    port = serve(certificate=made["named"])
    assert versions(port, "models.example", ca_file=made["named"].cert) == [7]
    assert versions(port, "10.0.0.1", ca_file=made["named"].cert, name="models.example") == [7]
    with pytest.raises(errors.BackendUnavailable):
        versions(port, "models.example", ca_file=made["named"].cert, name="other.example")


def test_the_gateway_presents_its_client_certificate(made, serve):
    port = serve(certificate=made["server"], client=made["gateway"])
    trusting = {"ca_file": made["server"].cert}
    assert versions(port, **trusting, cert_file=made["gateway"].cert, key_file=made["gateway"].key) == [7]
    for own in ({}, {"cert_file": made["stranger"].cert, "key_file": made["stranger"].key}):
        with pytest.raises(errors.BackendUnavailable):
            versions(port, **trusting, **own)


def test_invalid_tls_files_are_refused_at_startup(made, tmp_path):
    """The message names the setting: gRPC itself would accept any bytes, and fail at the first call."""
    junk, locked = tmp_path / "junk.pem", tmp_path / "locked.key"
    junk.write_text("no certificate")
    command = ["openssl", "pkcs8", "-topk8", "-passout", "pass:secret", "-in", made["gateway"].key, "-out", locked]
    subprocess.run(command, check=True, capture_output=True)
    trusting, cert, key = {"ca_file": made["server"].cert}, made["gateway"].cert, made["gateway"].key
    for settings, message in (
        ({"ca_file": tmp_path / "none.pem"}, "CA_FILE=.*none.pem: No such file or directory"),
        ({"ca_file": junk}, "CA_FILE=.*junk.pem: "),
        ({"name": "x"}, "SOSTENUTO_BACKEND_TLS_CA_FILE is required with"),
        ({**trusting, "cert_file": cert}, "CERT_FILE and SOSTENUTO_BACKEND_TLS_KEY_FILE must be set together"),
        ({**trusting, "key_file": key}, "CERT_FILE and SOSTENUTO_BACKEND_TLS_KEY_FILE must be set together"),
        ({**trusting, "cert_file": cert, "key_file": made["stranger"].key}, "KEY_FILE=.*stranger.key: .*mismatch"),
        ({**trusting, "cert_file": cert, "key_file": junk}, "KEY_FILE=.*junk.pem: "),
        ({**trusting, "cert_file": cert, "key_file": locked}, "KEY_FILE: the key is encrypted"),
    ):
        with pytest.raises(errors.ConfigurationError, match=message):
            versions(1, **settings)
