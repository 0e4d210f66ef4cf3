"""The distributions `sostenuto` and `sostenuto-server`, as pip gets them."""

import functools
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from email.parser import BytesParser
from importlib import import_module
from pathlib import Path

import pytest

from sostenuto._cli.program import REPLACED, SERVER_COMMANDS
from tests.paths import ROOT

BUNDLED = ("contract", "export", "jobs", "model_server", "service")
BOTH = pytest.mark.parametrize("folder", [ROOT / "client", ROOT], ids=["sostenuto", "sostenuto-server"])


@functools.cache
def wheel(folder):
    with tempfile.TemporaryDirectory() as made:
        build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", made]
        subprocess.run(build, cwd=folder, check=True, capture_output=True)
        (path,) = Path(made).iterdir()
        with zipfile.ZipFile(path) as archive:
            return {name: archive.read(name) for name in archive.namelist()}


def metadata(folder):
    (content,) = (content for name, content in wheel(folder).items() if name.endswith(".dist-info/METADATA"))
    return BytesParser().parsebytes(content)


@BOTH
def test_a_wheel_has_the_license(folder):
    assert (metadata(folder)["License-Expression"], metadata(folder)["License-File"]) == ("Apache-2.0", "LICENSE")
    (text,) = (content for name, content in wheel(folder).items() if name.endswith(".dist-info/licenses/LICENSE"))
    assert text == (ROOT / "LICENSE").read_bytes()


def test_both_distributions_have_the_same_version():
    versions = {metadata(folder)["Version"] for folder in (ROOT, ROOT / "client")}
    major, minor, _ = versions.pop().split(".")
    assert versions == set()
    needed = f"sostenuto[batch,report]<{major}.{int(minor) + 1},>={major}.{minor}"
    assert needed in metadata(ROOT).get_all("Requires-Dist")


def test_the_entry_points_are_the_commands_that_the_client_calls_the_servers():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    points = project["entry-points"]["sostenuto.commands"]
    assert points.keys() == {*SERVER_COMMANDS, *REPLACED}
    modules_and_names = [value.split(":") for value in points.values()]
    assert [pair for pair in modules_and_names if not hasattr(import_module(pair[0]), pair[1])] == []


def test_the_servers_wheel_has_every_file_of_its_packages_and_no_others():
    """Modules, recipes, pages and static files lie below one package, so that nobody's `service` is shadowed."""
    paths = [*(ROOT / "sostenuto_server").iterdir(), *(path for name in BUNDLED for path in (ROOT / name).rglob("*"))]
    files = {str(path.relative_to(ROOT)) for path in paths if path.is_file() and "__pycache__" not in path.parts}
    bundled = {name if name.startswith("sostenuto_server/") else f"sostenuto_server/{name}" for name in files}
    assert {name for name in wheel(ROOT) if ".dist-info/" not in name} == bundled
