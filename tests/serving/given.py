"""The server under test: one that a person has started, or `model_server` on the suite's models."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from contract import signatures
from contract.card import load_assets
from service.backends.client import ModelServerClient
from service.errors import GatewayError
from tests.serving.repository import VERSIONS

_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Server:
    """A server under test.

    Attributes:
        address: `host:port`.
        models_dir: The repository that it serves, on this machine.
    """

    address: str
    models_dir: Path

    @property
    def config(self):
        return (self.models_dir / signatures.MODELS_CONFIG).read_text()

    def version_dir(self, name, version=None):
        """Return the directory of a version, the newest by default."""
        return self.models_dir / name / str(version or VERSIONS[name][-1])

    def card(self, name, version=None):
        return load_assets(self.version_dir(name, version))[0]


def check_given(address, models_dir):
    """Refuse a directory or a server that the suite cannot use, before any test.

    Raises:
        pytest.UsageError: one line says what is wrong.
    """
    if models_dir is not None and not (models_dir / signatures.MODELS_CONFIG).is_file():
        raise pytest.UsageError(f"--serving-models={models_dir}: no models there; make serving-models makes them")
    if address is None:
        return
    client = ModelServerClient(address, timeout_s=_TIMEOUT_S)
    try:
        for name, versions in VERSIONS.items():
            served = sorted(status.version for status in client.versions(name) if status.available)
            if served != list(versions):
                raise pytest.UsageError(
                    f"--serving={address}: it serves versions {_listed(served)} of {name}, not {_listed(versions)}"
                )
    except GatewayError as error:
        raise pytest.UsageError(f"--serving: {error}") from error
    finally:
        client.close()


def _listed(versions):
    return ", ".join(map(str, versions)) or "none"
