"""TLS and mutual TLS for calls to model servers.

Knows files and gRPC's credentials. Does not know which servers there are.
"""

import ssl
from dataclasses import dataclass

import grpc

from service.settings import Settings


class TlsFileError(Exception):
    """A certificate or key file is invalid; the message names the file and the reason."""


@dataclass(frozen=True)
class Tls:
    """The gateway's trusted CAs and client certificate.

    Attributes:
        ca: PEM: the trusted CA certificates.
        cert: PEM: the client certificate chain, for servers that require one; None: no mutual TLS.
        key: PEM: the private key of the client certificate.
        name: Expected name in server certificates; None: the server's host name.
    """

    ca: bytes
    cert: bytes | None = None
    key: bytes | None = None
    name: str | None = None

    def channel(self, address: str, host: str, options: tuple[tuple[str, object], ...]) -> grpc.Channel:
        """Open an encrypted channel to an address; the certificate is issued for the host that it was resolved from."""
        credentials = grpc.ssl_channel_credentials(self.ca, self.key, self.cert)
        return grpc.secure_channel(
            address, credentials, options=(*options, ("grpc.ssl_target_name_override", self.name or host))
        )


def backend_tls(settings: Settings) -> Tls | None:
    """Read the TLS files of the settings; None: plaintext.

    Raises:
        TlsFileError: a file is missing, holds no certificate or key, or does not match the others.
    """
    ca_file, name = settings.backend_tls_ca_file, settings.backend_tls_name
    cert_file, key_file = settings.backend_tls_cert_file, settings.backend_tls_key_file
    if ca_file is None:
        if cert_file or key_file or name:
            raise TlsFileError("SOSTENUTO_BACKEND_TLS_CA_FILE is required with the other SOSTENUTO_BACKEND_TLS_*")
        return None
    if (cert_file is None) != (key_file is None):
        raise TlsFileError("SOSTENUTO_BACKEND_TLS_CERT_FILE and SOSTENUTO_BACKEND_TLS_KEY_FILE must be set together")
    # gRPC accepts any bytes and reports a failed handshake later, so the files are checked here.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        what: object = f"SOSTENUTO_BACKEND_TLS_CA_FILE={ca_file}"
        context.load_verify_locations(ca_file)
        if not context.cert_store_stats()["x509_ca"]:
            raise TlsFileError(f"{what}: has no CA certificate")
        if cert_file is None or key_file is None:
            return Tls(ca_file.read_bytes(), name=name)
        what = f"SOSTENUTO_BACKEND_TLS_CERT_FILE={cert_file}, SOSTENUTO_BACKEND_TLS_KEY_FILE={key_file}"
        context.load_cert_chain(cert_file, key_file, password=_no_password)
        return Tls(ca_file.read_bytes(), cert_file.read_bytes(), key_file.read_bytes(), name)
    except OSError as error:
        raise TlsFileError(f"{what}: {error.strerror or error}") from error


def _no_password() -> str:
    raise TlsFileError("SOSTENUTO_BACKEND_TLS_KEY_FILE: the key is encrypted; an unencrypted one is required")
