"""Gateway and model server by TLS, each of which shows who it is; a stranger's server gets no call."""

import concurrent.futures
import json

import grpc

from tests.certificates import make_certificate


def ssl_config(path, server, client):
    """Write TensorFlow Serving's SSLConfig, which holds the texts of the files."""
    fields = {"server_key": server.key, "server_cert": server.cert, "custom_ca": client.cert}
    # JSON's strings are those of text protos.
    lines = [f"{name}: {json.dumps(file.read_text())}" for name, file in fields.items()]
    path.write_text("\n".join([*lines, "client_verify: true"]))
    return f"--ssl_config_file={path}"


class Stranger(grpc.GenericRpcHandler):
    """A server with a certificate that nobody trusts, which notes every call."""

    def __init__(self, own):
        self.calls = []
        self._server = grpc.server(concurrent.futures.ThreadPoolExecutor(2), handlers=[self])
        credentials = grpc.ssl_server_credentials([(own.key.read_bytes(), own.cert.read_bytes())])
        self.port = self._server.add_secure_port("127.0.0.1:0", credentials)
        self._server.start()

    def service(self, details):
        """Note the call, and have it answered with UNIMPLEMENTED."""
        self.calls.append(details.method)

    def end(self):
        """Stop it."""
        self._server.stop(0).wait(10)


def test_texts_are_the_same_by_tls_and_a_stranger_gets_no_call(
    gateway, two_models_dir, own_model_server, start_gateway, tmp_path
):
    """Two servers behind one setting: the one with the right certificate answers, the other one is left out."""
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


def test_a_file_that_cannot_be_used_ends_the_start_with_one_line(start_gateway, tmp_path):
    """Before anything listens."""
    (tmp_path / "ca.pem").write_text("junk")
    try:
        start_gateway(backend_tls_ca_file=tmp_path / "ca.pem")
    except AssertionError as failed:
        (line,) = str(failed).splitlines()[1:]
        assert line.startswith(f"error: OSTINATO_BACKEND_TLS_CA_FILE={tmp_path}/ca.pem: ")
    else:
        raise AssertionError("it started")
