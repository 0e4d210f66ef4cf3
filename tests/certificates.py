"""Certificates for tests of TLS, made by openssl and valid for two days."""

import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Certificate:
    """Paths of a self-signed certificate, which is its own authority, and of its key."""

    cert: Path
    key: Path


def make_certificate(folder, name, made_out_to="IP:127.0.0.1"):
    """Write NAME.pem and NAME.key; `made_out_to` is the subjectAltName."""
    made = Certificate(folder / f"{name}.pem", folder / f"{name}.key")
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc", "-days", "2"]
    called = ["-subj", f"/CN={name}", "-addext", f"subjectAltName={made_out_to}"]
    command = ["openssl", "req", "-x509", *kind, *called, "-keyout", str(made.key), "-out", str(made.cert)]
    subprocess.run(command, check=True, capture_output=True)
    return made
