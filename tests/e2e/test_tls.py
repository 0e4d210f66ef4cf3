"""Mutual TLS between gateway and model server; a server without a trusted certificate gets no call."""

import concurrent.futures
import json

import grpc

from tests.certificates import make_certificate


def ssl_config(path, server, client):
    """Write TensorFlow Serving's SSLConfig, which contains the files' contents, and return the server's flag."""
    fields = {"server_key": server.key, "server_cert": server.cert, "custom_ca": client.cert}
    # A JSON string is also a string of the protobuf text format.
    lines = [f"{name}: {json.dumps(file.read_text())}" for name, file in fields.items()]
    path.write_text("\n".join([*lines, "client_verify: true"]))
    return f"--ssl_config_file={path}"


class Stranger(grpc.GenericRpcHandler):
    """A gRPC server with an untrusted certificate that records every call."""

    def __init__(self, own):
        self.calls = []
        self._server = grpc.server(concurrent.futures.ThreadPoolExecutor(2), handlers=[self])
        credentials = grpc.ssl_server_credentials([(own.key.read_bytes(), own.cert.read_bytes())])
        self.port = self._server.add_secure_port("127.0.0.1:0", credentials)
        self._server.start()

    def service(self, details):
        """Record the call; gRPC answers it with UNIMPLEMENTED."""
        self.calls.append(details.method)

    def end(self):
        """Stop the server."""
        self._server.stop(0).wait(10)


def test_tls_changes_no_byte_and_an_untrusted_backend_gets_no_call(
    gateway, two_models_dir, own_model_server, start_gateway, tmp_path
):
    """Of two backends, the one with the trusted certificate serves; the other one stays ejected."""
    made = {name: make_certificate(tmp_path, name) for name in ("server", "stranger", "gateway")}
    flag = ssl_config(tmp_path / "server.config", made["server"], made["gateway"])
    server, stranger = own_model_server(two_models_dir, flag), Stranger(made["stranger"])
    safe = start_gateway(
        repository=two_models_dir,
        backends=f"127.0.0.1:{server.port},127.0.0.1:{stranger.port}",
        backend_tls_ca_file=made["server"].cert,
        backend_tls_cert_file=made["gateway"].cert,
        backend_tls_key_file=made["gateway"].key,
    )
    safe.wait_until(lambda: safe.get("/v1/status")[1]["backends"][0]["ejected_because"] is None)
    body = {"model": "lstm", "prompt": "It was", "seed": 1, "max_tokens": 100}
    assert safe.text(**body) == gateway.text(**body)
    told = {backend["address"]: backend["ejected_because"] for backend in safe.get("/v1/status")[1]["backends"]}
    assert told[f"127.0.0.1:{server.port}"] is None
    assert "UNAVAILABLE" in told[f"127.0.0.1:{stranger.port}"]
    stranger.end()
    assert stranger.calls == []


def test_an_invalid_ca_file_fails_startup_with_a_one_line_error(start_gateway, tmp_path):
    """The error names the environment variable and the file."""
    (tmp_path / "ca.pem").write_text("junk")
    try:
        start_gateway(backend_tls_ca_file=tmp_path / "ca.pem")
    except AssertionError as failed:
        (line,) = str(failed).splitlines()[1:]
        assert line.startswith(f"error: OSTINATO_BACKEND_TLS_CA_FILE={tmp_path}/ca.pem: ")
    else:
        raise AssertionError("it started")
