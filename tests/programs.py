"""Programs that tests need: those that pip does not install, and the commands of `sostenuto`."""

import shutil
import tomllib

from tests.paths import ROOT


def program(name):
    """Return the path of a program, or fail with a line that says how to install it."""
    # Debian puts servers into /usr/sbin, which is not on every user's PATH.
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin")
    if path is None:
        raise AssertionError(f"this test needs {name} on PATH; scripts/install-test-packages installs it")
    return path


def write_entry_points(folder):
    """Write the entry points of the server's commands, as its distribution has them, into a directory of sys.path."""
    information = folder / "sostenuto_server-0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: sostenuto-server\nVersion: 0\n")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    points = project["entry-points"]["sostenuto.commands"]
    lines = [f"{name} = {value}\n" for name, value in points.items()]
    (information / "entry_points.txt").write_text(f"[sostenuto.commands]\n{''.join(lines)}")
