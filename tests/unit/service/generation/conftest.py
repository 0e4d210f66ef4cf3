"""Engines on a fake backend, for every test of generation."""

import contextlib

import pytest

from tests.unit.service.engines import Service


@pytest.fixture
def start_service():
    """Start services that are closed after the test."""
    with contextlib.ExitStack() as running:

        def start(*backend, **settings):
            service = Service(*backend, **settings)
            running.callback(service.close)
            return service

        yield start


@pytest.fixture
def service(start_service):
    return start_service()
