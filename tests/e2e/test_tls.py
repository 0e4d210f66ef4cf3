"""Mutual TLS between gateway and model server. test_determinism.py has the calls over it."""

import concurrent.futures
import json

import grpc


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


def test_an_invalid_ca_file_fails_startup_with_a_one_line_error(start_gateway, tmp_path):
    """The error names the environment variable and the file."""
    (tmp_path / "ca.pem").write_text("junk")
    try:
        start_gateway(backend_tls_ca_file=tmp_path / "ca.pem")
    except AssertionError as failed:
        (line,) = str(failed).splitlines()[1:]
        assert line.startswith(f"error: SOSTENUTO_BACKEND_TLS_CA_FILE={tmp_path}/ca.pem: ")
    else:
        raise AssertionError("it started")
