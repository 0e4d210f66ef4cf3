"""What GitHub runs: .github/workflows. `make check` compares the files with the schema of workflows."""

import re

import pytest
import yaml

from tests.paths import ROOT

PATHS = sorted((ROOT / ".github/workflows").glob("*.yml"))
WORKFLOWS = {path.stem: yaml.safe_load(path.read_text()) for path in PATHS}
TARGETS = WORKFLOWS["images"]["jobs"]["build"]["strategy"]["matrix"]["target"]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_every_action_has_a_version(path):
    """A branch may change at any time; PyPI's action recommends its branch of releases."""
    used = re.findall(r"uses: (\S+)", path.read_text())
    local = [name for name in used if name.startswith("./")]
    assert [name for name in local if not (ROOT / name).is_file()] == []
    others = set(used).difference(local, ["pypa/gh-action-pypi-publish@release/v1"])
    assert [name for name in others if not re.search(r"(@v|:)\d+(\.\d+)*$", name)] == []


@pytest.mark.parametrize("file", ["docker-compose.yml", "deploy/kubernetes/base/kustomization.yaml"])
def test_the_published_images_are_those_that_deployments_name(file):
    text, dockerfile = (ROOT / file).read_text(), (ROOT / "deploy/Dockerfile").read_text()
    assert set(re.findall(r"(?<![\w/.])sostenuto-([a-z]+)(?=[:,])", text)) == set(TARGETS)
    assert [target for target in TARGETS if f" AS {target}\n" not in dockerfile] == []
