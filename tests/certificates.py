"""Certificates for tests of TLS, made by openssl and valid for two days, and servers with them."""

import concurrent.futures
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

import grpc


@dataclass(frozen=True)
class Certificate:
    """Paths of a self-signed certificate, which is its own authority, and of its key."""

    cert: Path
    key: Path


def make_certificate(folder, name, made_out_to="IP:127.0.0.1"):
    made = Certificate(folder / f"{name}.pem", folder / f"{name}.key")
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc", "-days", "2"]
    called = ["-subj", f"/CN={name}", "-addext", f"subjectAltName={made_out_to}"]
    command = ["openssl", "req", "-x509", *kind, *called, "-keyout", str(made.key), "-out", str(made.cert)]
    subprocess.run(command, check=True, capture_output=True)
    return made


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
        self._server.stop(0).wait(10)
