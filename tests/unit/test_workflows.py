"""What GitHub runs: .github/workflows. `make check` compares the files with the schema of workflows."""

import re
import tomllib

import pytest
import yaml
from packaging.specifiers import SpecifierSet

from tests.paths import ROOT

PATHS = sorted((ROOT / ".github/workflows").glob("*.yml"))
WORKFLOWS = {path.stem: yaml.safe_load(path.read_text()) for path in PATHS}
TARGETS = WORKFLOWS["images"]["jobs"]["build"]["strategy"]["matrix"]["target"]


def test_every_supported_python_is_tested():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    tested = WORKFLOWS["ci"]["jobs"]["test"]["strategy"]["matrix"]["python"]
    assert tested == [f"3.{minor}" for minor in range(30) if f"3.{minor}" in SpecifierSet(project["requires-python"])]
    assert [f"Programming Language :: Python :: {version}" for version in tested] == [
        name for name in project["classifiers"] if re.search(r":: 3\.", name)
    ]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_every_action_has_a_version(path):
    """A branch may change at any time; PyPI's action recommends its branch of releases."""
    used = re.findall(r"uses: (\S+)", path.read_text())
    local = [name for name in used if name.startswith("./")]
    assert [name for name in local if not (ROOT / name).is_file()] == []
    others = set(used).difference(local, ["pypa/gh-action-pypi-publish@release/v1"])
    assert [name for name in others if not re.search(r"(@v|:)\d+(\.\d+)*$", name)] == []


def test_a_release_is_built_by_the_tested_tools():
    (pinned,) = re.findall(r"^hatchling==\S+", (ROOT / "requirements/dev.txt").read_text(), re.MULTILINE)
    runs = [step.get("run", "") for step in WORKFLOWS["release"]["jobs"]["build"]["steps"]]
    assert any(f"pip install {pinned} " in run for run in runs)


def test_nothing_is_published_before_the_tests_have_passed():
    jobs = WORKFLOWS["release"]["jobs"]
    assert all({"test", "build"} <= set(jobs[name]["needs"]) for name in ("pypi", "images"))
    assert (jobs["test"]["uses"], jobs["images"]["with"]) == ("./.github/workflows/ci.yml", {"push": True})
    assert WORKFLOWS["ci"]["jobs"]["images"]["with"] == {"push": False}


@pytest.mark.parametrize("file", ["docker-compose.yml", "deploy/kubernetes/base/kustomization.yaml"])
def test_the_published_images_are_those_that_deployments_name(file):
    text, dockerfile = (ROOT / file).read_text(), (ROOT / "deploy/Dockerfile").read_text()
    assert set(re.findall(r"(?<![\w/.])sostenuto-([a-z]+)(?=[:,])", text)) == set(TARGETS)
    assert [target for target in TARGETS if f" AS {target}\n" not in dockerfile] == []
