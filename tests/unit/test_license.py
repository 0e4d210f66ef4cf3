"""Both distributions declare their license as PEP 639 has it."""

import subprocess
import sys
import tomllib
import zipfile
from email.parser import BytesParser

import pytest

from tests.paths import ROOT


@pytest.mark.parametrize("folder", [ROOT, ROOT / "client"], ids=["sostenuto", "sostenuto"])
def test_the_license_is_an_spdx_expression_with_its_text(folder):
    """`license` is an expression, and `license-files` names the text of that license."""
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert project["license"] == "Apache-2.0"
    text = "".join((folder / name).read_text() for name in project["license-files"])
    assert text.split()[:5] == ["Apache", "License", "Version", "2.0,", "January"]


def test_the_sdks_wheel_has_the_license(tmp_path):
    """In its metadata and as a file."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT / "client", check=True, capture_output=True)
    (wheel,) = tmp_path.iterdir()
    with zipfile.ZipFile(wheel) as archive:
        (path,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = BytesParser().parsebytes(archive.read(path))
        licensed = archive.read(path.replace("METADATA", "licenses/LICENSE"))
    assert (metadata["License-Expression"], metadata["License-File"]) == ("Apache-2.0", "LICENSE")
    assert licensed == (ROOT / "LICENSE").read_bytes()
