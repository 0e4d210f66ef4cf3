"""The working directory of commands on the model repository."""

from pathlib import Path

import pytest


@pytest.fixture
def repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("models").mkdir()
    return Path("models")
