"""How calls to model servers are encrypted, and how both sides show who they are.

Knows files and gRPC's credentials. Does not know which servers there are.
"""

import ssl
from dataclasses import dataclass

import grpc

from service.settings import Settings


class TlsFileError(Exception):
    """A file of certificates or keys cannot be used; the message says which and why."""


@dataclass(frozen=True)
class Tls:
    """What a gateway trusts and shows.

    Attributes:
        ca: PEM: the authorities whose servers are trusted.
        cert: PEM: the gateway's own certificates, for servers that ask for one; None: it has none.
        key: PEM: the key of those.
        name: What certificates of servers are made out to; None: the host by which a server is addressed.
    """

    ca: bytes
    cert: bytes | None = None
    key: bytes | None = None
    name: str | None = None

    def channel(self, address: str, host: str, options: tuple[tuple[str, object], ...]) -> grpc.Channel:
        """Open an encrypted channel.

        Args:
            address: `host:port`, the host mostly as an IP address.
            host: The name that stood for it, to which its certificate is made out.
            options: Of the channel.
        """
        credentials = grpc.ssl_channel_credentials(self.ca, self.key, self.cert)
        return grpc.secure_channel(
            address, credentials, options=(*options, ("grpc.ssl_target_name_override", self.name or host))
        )


def backend_tls(settings: Settings) -> Tls | None:
    """Read the files that the settings name; None: calls are not encrypted.

    Raises:
        TlsFileError: one is missing, holds nothing of the kind, or does not fit the others.
    """
    ca_file, name = settings.backend_tls_ca_file, settings.backend_tls_name
    cert_file, key_file = settings.backend_tls_cert_file, settings.backend_tls_key_file
    if ca_file is None:
        if cert_file or key_file or name:
            raise TlsFileError("OSTINATO_BACKEND_TLS_CA_FILE is needed where the other OSTINATO_BACKEND_TLS_* are set")
        return None
    if (cert_file is None) != (key_file is None):
        raise TlsFileError("OSTINATO_BACKEND_TLS_CERT_FILE and OSTINATO_BACKEND_TLS_KEY_FILE go together")
    # gRPC takes any bytes, and says later that a handshake failed.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        what: object = f"OSTINATO_BACKEND_TLS_CA_FILE={ca_file}"
        context.load_verify_locations(ca_file)
        if not context.cert_store_stats()["x509_ca"]:
            raise TlsFileError(f"{what}: holds no certificate of an authority")
        if cert_file is None or key_file is None:
            return Tls(ca_file.read_bytes(), name=name)
        what = f"OSTINATO_BACKEND_TLS_CERT_FILE={cert_file}, OSTINATO_BACKEND_TLS_KEY_FILE={key_file}"
        context.load_cert_chain(cert_file, key_file, password=_no_password)
        return Tls(ca_file.read_bytes(), cert_file.read_bytes(), key_file.read_bytes(), name)
    except OSError as error:
        raise TlsFileError(f"{what}: {error.strerror or error}") from error


def _no_password() -> str:
    raise TlsFileError("OSTINATO_BACKEND_TLS_KEY_FILE: the key is encrypted, and nobody here knows its password")
