"""TLS to model servers: trusted authorities, host names, client certificates, and files that are refused."""

import concurrent.futures
import subprocess

import grpc
import pytest

from service.backends.client import GrpcBackend
from service.backends.protos import get_model_status_pb2, model_service_pb2_grpc
from service.backends.tls import TlsFileError, backend_tls
from service.errors import BackendUnavailable
from service.settings import Settings
from tests.certificates import make_certificate


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Certificates: of a server by its address, of one by its name, of a gateway, and of another authority."""
    folder = tmp_path_factory.mktemp("certificates")
    names = {"server": "IP:127.0.0.1", "named": "DNS:models.example", "gateway": "DNS:gateway", "stranger": "DNS:x"}
    return {name: make_certificate(folder, name, to) for name, to in names.items()}


class _Answers(model_service_pb2_grpc.ModelServiceServicer):
    def GetModelStatus(self, _request, _context):
        response = get_model_status_pb2.GetModelStatusResponse()
        response.model_version_status.add(version=7, state=get_model_status_pb2.ModelVersionStatus.AVAILABLE)
        return response


@pytest.fixture
def serve():
    """Start servers that present a certificate, and require one that is signed by `client`."""
    running = []

    def start(certificate, client=None):
        server = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(_Answers(), server)
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


def versions(port, host="127.0.0.1", **settings):
    """Request the versions of a server as the gateway does, and return them."""
    tls = backend_tls(Settings(**{f"backend_tls_{name}": value for name, value in settings.items()}))
    backend = GrpcBackend(f"127.0.0.1:{port}", timeout_s=5, host=host, tls=tls)
    try:
        return [status.version for status in backend.versions("any")]
    finally:
        backend.close()


def test_a_server_certificate_must_match_the_authority_and_the_host(made, serve):
    """It must be signed by a trusted authority and issued for the host in the settings."""
    port = serve(made["server"])
    assert versions(port, ca_file=made["server"].cert) == [7]
    for host, authority in (("127.0.0.1", "stranger"), ("other.example", "server")):
        with pytest.raises(BackendUnavailable):
            versions(port, host, ca_file=made[authority].cert)
    # The server does not answer without TLS.
    with pytest.raises(BackendUnavailable):
        versions(port)


def test_the_certificate_is_checked_for_the_name_and_not_the_address(made, serve):
    """A name with several addresses is the one in all their certificates; a setting overrides it."""
    port = serve(made["named"])
    assert versions(port, "models.example", ca_file=made["named"].cert) == [7]
    assert versions(port, "10.0.0.1", ca_file=made["named"].cert, name="models.example") == [7]
    with pytest.raises(BackendUnavailable):
        versions(port, "models.example", ca_file=made["named"].cert, name="other.example")


def test_the_gateway_presents_its_client_certificate(made, serve):
    """A server that requires one refuses connections without it, or with another authority's."""
    port = serve(made["server"], client=made["gateway"])
    trusting = {"ca_file": made["server"].cert}
    assert versions(port, **trusting, cert_file=made["gateway"].cert, key_file=made["gateway"].key) == [7]
    for own in ({}, {"cert_file": made["stranger"].cert, "key_file": made["stranger"].key}):
        with pytest.raises(BackendUnavailable):
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
        with pytest.raises(TlsFileError, match=message):
            versions(1, **settings)
