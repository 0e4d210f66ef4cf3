"""Faults of the machine, for tests."""

import os


def fill_disk(monkeypatch):
    """Let atomic writes find a disk that takes names but no content."""

    def open_full(descriptor, mode):
        os.close(descriptor)
        return open("/dev/full", mode)

    monkeypatch.setattr("contract.files.os.fdopen", open_full)
