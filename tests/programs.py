"""Programs that tests need and pip does not install."""

import shutil


def program(name):
    """Return the path of a program, or fail with a line that says how to install it."""
    # Debian puts servers into /usr/sbin, which is not on every user's PATH.
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin")
    if path is None:
        raise AssertionError(f"this test needs {name} on PATH; scripts/install-test-packages installs it")
    return path
