"""Programs that tests run and pip does not bring."""

import shutil


def program(name):
    """Return the path of a program; without it the test fails with a line that says what to do."""
    path = shutil.which(name)
    if path is None:
        raise AssertionError(f"this test needs {name} on PATH; scripts/install-test-packages installs it")
    return path
