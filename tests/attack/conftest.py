"""Attacks on a running service: resource exhaustion, backend faults and damaged files, on loopback alone.

They take minutes and both cores, so only `make test-all` runs them. Each one is bounded in requests and in time,
and measures how other clients are served meanwhile.
"""

from pathlib import Path

import pytest

# The servers and repositories of the end-to-end tests.
from tests.e2e.conftest import (  # noqa: F401 - fixtures
    four_models_dir,
    gateway,
    model_server,
    own_model_server,
    start_gateway,
    start_shared_gateway,
    two_models_dir,
)

_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items):
    """Mark every test of this directory."""
    for item in items:
        if item.path.is_relative_to(_HERE):
            item.add_marker(pytest.mark.slow)
