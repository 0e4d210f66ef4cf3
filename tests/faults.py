"""Machine faults, for tests."""

import os


def fill_disk(monkeypatch):
    """Make atomic writes fail as on a full disk, where files can be created but not filled."""
    fdopen = os.fdopen

    def open_full(descriptor, mode):
        if mode == "rb":
            return fdopen(descriptor, mode)
        os.close(descriptor)
        return open("/dev/full", mode)

    monkeypatch.setattr("contract.files.os.fdopen", open_full)
