"""TLS of the gRPC port: TensorFlow Serving's SSLConfig, which contains PEM text, not paths.

Knows keys and certificates, and leaks none: errors never quote the file. Does not know the port.
"""

import ssl
import tempfile
from pathlib import Path
from typing import Any

import grpc

from model_server import textproto
from model_server.errors import ConfigError


def read_credentials(path: Path) -> grpc.ServerCredentials:
    """Read and verify the TLS credentials: with invalid ones gRPC would only report that it cannot bind the port.

    The text proto is an SSLConfig: `server_key`, `server_cert`, `custom_ca` and `client_verify`.

    Raises:
        ConfigError: the file cannot be read or is invalid; the message is one line and names the file.
    """
    return textproto.read(path, textproto.SSLConfig, "SSL config", _from_proto, is_secret=True)


def _from_proto(message: Any) -> grpc.ServerCredentials:
    for field in ("server_key", "server_cert", "custom_ca"):
        text = getattr(message, field)
        if "-----BEGIN " not in text and (text or field != "custom_ca"):
            raise ConfigError(f"{field} must be the contents of a PEM file, not its path")
    if message.client_verify and not message.custom_ca:
        raise ConfigError("client_verify requires custom_ca, the CA certificates of the clients")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _verify_pair(context, message.server_key, message.server_cert)
    if message.custom_ca:
        try:
            context.load_verify_locations(cadata=message.custom_ca)
        except (ssl.SSLError, ValueError) as error:
            raise ConfigError("custom_ca has no valid certificates") from error
    pair = message.server_key.encode(), message.server_cert.encode()
    return grpc.ssl_server_credentials([pair], message.custom_ca.encode() or None, message.client_verify)


def _verify_pair(context: ssl.SSLContext, key: str, certificate: str) -> None:
    # OpenSSL loads them only from a file; this one is readable by its owner only and deleted at once.
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
        file.write(f"{key}\n{certificate}\n")
        file.flush()
        try:
            # With no password, OpenSSL would prompt for that of an encrypted key at the terminal.
            context.load_cert_chain(file.name, password="")
        except (ssl.SSLError, ValueError) as error:
            reason = getattr(error, "reason", None) or "PEM text is damaged"
            raise ConfigError(f"server_key and server_cert cannot be loaded as a pair: {reason}") from error
