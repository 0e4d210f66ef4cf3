"""An engine on a fake backend, for every test of generation."""

import pytest

from tests.unit.service.engines import Service


@pytest.fixture
def service():
    service = Service()
    yield service
    service.close()
