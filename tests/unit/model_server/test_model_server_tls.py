"""TLS by `--ssl_config_file`, with certificates that the tests make."""

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from model_server.errors import ConfigError
from model_server.tls import read_credentials
from tests.certificates import make_certificate
from tests.unit.model_server.model_folder import Models
from tests.unit.model_server.serving_client import Client

Status = grpc.StatusCode
Refusal = Callable[[Callable[[], object]], tuple[Status, str]]


@dataclass(frozen=True)
class Identity:
    """A private key and its self-signed certificate."""

    key: str
    certificate: str


@pytest.fixture(scope="module")
def identities(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Identity]:
    """The identities of the server, of a client, and of a stranger."""
    folder = tmp_path_factory.mktemp("identities")
    made = {name: make_certificate(folder, name) for name in ("server", "client", "stranger")}
    return {name: Identity(files.key.read_text(), files.cert.read_text()) for name, files in made.items()}


@pytest.fixture
def ssl_config(tmp_path: Path, identities: dict[str, Identity]) -> Callable[..., Path]:
    """Write an SSLConfig, by default with the server's identity; a field of None is omitted."""

    def write(**fields: str | bool | None) -> Path:
        server = identities["server"]
        fields = {"server_key": server.key, "server_cert": server.certificate, **fields}
        path = tmp_path / "ssl.config"
        # JSON's strings and booleans are those of text protos.
        path.write_text("\n".join(f"{key}: {json.dumps(value)}" for key, value in fields.items() if value is not None))
        return path

    return write


@pytest.fixture
def connect_safely(identities: dict[str, Identity]) -> Iterator[Callable[..., Client]]:
    """Connect clients that trust the server's certificate, with a client certificate if one is named."""
    with ExitStack() as stack:

        def connect(address: str, name: str | None = None) -> Client:
            own = identities[name] if name else Identity("", "")
            credentials = grpc.ssl_channel_credentials(
                identities["server"].certificate.encode(), own.key.encode() or None, own.certificate.encode() or None
            )
            client = Client(address, credentials)
            stack.callback(client.channel.close)
            return client

        yield connect


def test_a_client_that_trusts_the_server_can_call_it(
    models: Models, serve: Callable[..., Client], ssl_config: Callable[..., Path], connect_safely: Callable[..., Client]
):
    """It needs no client certificate."""
    models.publish(3, 2.0)
    plain = serve(ssl_config_file=ssl_config())
    assert connect_safely(plain.server.address).weight() == 2.0


def test_a_plaintext_client_is_refused(
    models: Models, serve: Callable[..., Client], ssl_config: Callable[..., Path], refusal: Refusal
):
    """The port accepts TLS only; the client sees UNAVAILABLE."""
    models.publish(3, 2.0)
    client = serve(ssl_config_file=ssl_config())
    assert refusal(client.predict)[0] is Status.UNAVAILABLE


@pytest.mark.parametrize("name", [None, "stranger"])
def test_client_verify_accepts_only_certificates_of_custom_ca(
    models: Models,
    serve: Callable[..., Client],
    ssl_config: Callable[..., Path],
    connect_safely: Callable[..., Client],
    identities: dict[str, Identity],
    refusal: Refusal,
    name: str | None,
):
    """A client without a certificate, or with one of another authority, sees UNAVAILABLE."""
    models.publish(3, 2.0)
    config = ssl_config(custom_ca=identities["client"].certificate, client_verify=True)
    address = serve(ssl_config_file=config).server.address
    assert connect_safely(address, "client").weight() == 2.0
    assert refusal(connect_safely(address, name).predict)[0] is Status.UNAVAILABLE


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"server_key": None}, "server_key must be the contents of a PEM file, not its path"),
        ({"server_cert": "/etc/cert.pem"}, "server_cert must be the contents of a PEM file, not its path"),
        ({"custom_ca": "/etc/ca.pem"}, "custom_ca must be the contents of a PEM file, not its path"),
        ({"client_verify": True}, "client_verify requires custom_ca"),
        ({"server_key": "stranger"}, "server_key and server_cert cannot be loaded as a pair: KEY_VALUES_MISMATCH"),
        ({"server_key": "-----BEGIN PRIVATE KEY-----\nx"}, "server_key and server_cert cannot be loaded as a pair"),
        ({"custom_ca": "-----BEGIN CERTIFICATE-----\nx"}, "custom_ca has no valid certificates"),
        ({"server_crt": "x"}, "error in line 3, column 1"),
    ],
)
def test_an_invalid_ssl_config_is_an_error_that_names_file_and_fault(
    ssl_config: Callable[..., Path], identities: dict[str, Identity], fields: dict[str, str | bool | None], told: str
):
    """In one line, before gRPC reports only that the port cannot be bound."""
    if fields.get("server_key") == "stranger":
        fields = {"server_key": identities["stranger"].key}
    path = ssl_config(**fields)
    with pytest.raises(ConfigError, match=re.escape(told)) as caught:
        read_credentials(path)
    assert str(caught.value).startswith(f"{path}: invalid SSL config (")
    assert "\n" not in str(caught.value)


def test_an_encrypted_key_is_refused_without_a_password_prompt(
    ssl_config: Callable[..., Path], identities: dict[str, Identity]
):
    """A prompt would block the start: a server has no user at its terminal."""
    command = ["openssl", "pkcs8", "-topk8", "-passout", "pass:secret"]
    key = identities["server"].key
    encrypted = subprocess.run(command, input=key, check=True, capture_output=True, text=True).stdout
    with pytest.raises(ConfigError, match="server_key and server_cert cannot be loaded as a pair"):
        read_credentials(ssl_config(server_key=encrypted))


@pytest.mark.parametrize("fault", [" oops", '\nserver_key: "-----BEGIN PRIVATE KEY-----\nc2VjcmV0"'])
def test_an_ssl_config_error_does_not_reveal_the_key(tmp_path: Path, fault: str):
    """Errors are logged, and the faulty line may hold the key."""
    path = tmp_path / "ssl.config"
    path.write_text(f'server_cert: "" server_key: "-----BEGIN PRIVATE KEY-----\\nc2VjcmV0"{fault}')
    with pytest.raises(ConfigError, match="error in line") as caught:
        read_credentials(path)
    assert "c2VjcmV0" not in str(caught.value)


def test_an_ssl_config_that_is_not_utf_8_is_refused(tmp_path: Path):
    """A certificate in DER cannot be a string of a text proto."""
    path = tmp_path / "ssl.config"
    path.write_bytes(b'server_key: "\xff\xfe"')
    with pytest.raises(ConfigError, match="it is not UTF-8 text"):
        read_credentials(path)
