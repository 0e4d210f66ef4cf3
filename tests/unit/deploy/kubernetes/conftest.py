"""Fixtures: an overlay's objects, and the settings that the gateway reads in its pod."""

import pytest

from service.settings import load_settings
from tests.manifests import OVERLAYS, overlay, settings


@pytest.fixture(params=OVERLAYS)
def objects(request):
    return overlay(request.param)


@pytest.fixture
def gateway_settings(objects, monkeypatch):
    """The gateway's settings as loaded from the environment of its pod."""
    for name, value in settings(objects, "gateway").items():
        monkeypatch.setenv(name, value)
    return load_settings()
