"""Programs that tests run and pip does not bring."""

import shutil


def program(name):
    """Return the path of a program; without it the test fails with a line that says what to do."""
    # Debian puts servers into /usr/sbin, which is not on everybody's path.
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin")
    if path is None:
        raise AssertionError(f"this test needs {name} on PATH; scripts/install-test-packages installs it")
    return path
