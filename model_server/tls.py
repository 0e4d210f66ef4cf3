"""TLS of the gRPC port: TensorFlow Serving's SSLConfig, which holds the PEM texts themselves.

Knows keys and certificates, and shows none of them: an error never quotes the file. Does not know the port.
"""

import ssl
import tempfile
from pathlib import Path
from typing import Any

import grpc

from model_server import textproto
from model_server.errors import ConfigError

NAME = "SSL config"


def read_credentials(path: Path) -> grpc.ServerCredentials:
    """Read what the port needs to speak TLS, and try it: gRPC would only say that the port cannot be bound.

    Args:
        path: Text proto of SSLConfig: `server_key`, `server_cert`, `custom_ca` and `client_verify`.

    Raises:
        ConfigError: the file cannot be read or used; the message is one line and names it.
    """
    message = textproto.read(path, textproto.SSLConfig, NAME, is_secret=True)
    try:
        return _from_proto(message)
    except ConfigError as error:
        raise textproto.unusable(path, NAME, error) from error


def _from_proto(message: Any) -> grpc.ServerCredentials:
    for field in ("server_key", "server_cert", "custom_ca"):
        text = getattr(message, field)
        if "-----BEGIN " not in text and (text or field != "custom_ca"):
            raise ConfigError(f"{field} must hold the contents of a PEM file, not its path")
    if message.client_verify and not message.custom_ca:
        raise ConfigError("client_verify needs custom_ca, the certificates that clients' own are signed with")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _try_pair(context, message.server_key, message.server_cert)
    if message.custom_ca:
        _try_ca(context, message.custom_ca)
    pair = message.server_key.encode(), message.server_cert.encode()
    return grpc.ssl_server_credentials([pair], message.custom_ca.encode() or None, message.client_verify)


def _try_pair(context: ssl.SSLContext, key: str, certificate: str) -> None:
    # OpenSSL takes them from a file alone; this one nobody else may read, and it is gone at once.
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
        file.write(f"{key}\n{certificate}\n")
        file.flush()
        try:
            # An empty password: otherwise an encrypted key would be asked for at the terminal.
            context.load_cert_chain(file.name, password="")
        except (ssl.SSLError, ValueError) as error:
            reason = getattr(error, "reason", None) or "PEM text is damaged"
            raise ConfigError(f"server_key and server_cert do not work together: {reason}") from error


def _try_ca(context: ssl.SSLContext, certificates: str) -> None:
    try:
        context.load_verify_locations(cadata=certificates)
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError("custom_ca is not made of certificates") from error
