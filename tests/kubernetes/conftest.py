"""The deployment that all tests of the cluster share, and the table of what the disturbances did."""

import contextlib
import json
import subprocess

import pytest

from tests.kubernetes.deployment import Deployment, Disturbed
from tests.servers import ROOT

HEADER = (
    "| fault | identical | failed | differed | resumed | longest gap | all ready |\n|---|---|---|---|---|---|---|\n"
)


@pytest.fixture(scope="session")
def deployment(tmp_path_factory):
    """The project, deployed by the page; its namespace is removed in the end."""
    found = subprocess.run(["kubectl", "config", "current-context"], capture_output=True, check=False)
    assert found.returncode == 0, "kubectl has no current context: CONTRIBUTING.md says how to make a cluster"
    deployment = Deployment(tmp_path_factory.mktemp("kubernetes"))
    deployment.follow_the_page()
    try:
        deployment.record()
        yield deployment
    finally:
        deployment.remove()


@pytest.fixture(scope="session")
def table():
    """The file that gets a row of each disturbance, in the form of docs/scaling.md."""
    path = ROOT / "build/kubernetes/disturbances.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(HEADER)
    path.with_suffix(".jsonl").write_text("")
    return path


@pytest.fixture
def under_load(deployment, table):
    """Disturb the deployment under load: a context manager, by the row's name and the nodes that the load avoids.

    In the end no text has failed or differs, and all pods are ready. The disturbance may note an earlier recovery.
    """

    @contextlib.contextmanager
    def disturb(name, avoid=()):
        deployment.until_steady()
        with deployment.load(avoid) as completions:
            disturbed = Disturbed(name)
            yield disturbed
            deployment.until_steady()
            if not disturbed.recovery_s:
                disturbed.note_recovery()
        row = disturbed.row(completions)
        with table.open("a") as file:
            file.write(f"{row}\n")
        # All that the table summarizes, one line a disturbance.
        with table.with_suffix(".jsonl").open("a") as file:
            file.write(f"{json.dumps({'name': name, 'began_at': disturbed.began_at, 'completions': completions})}\n")
        print(row)
        wrong = [each for each in completions if each["outcome"] != "same"]
        assert wrong == [], row
        assert completions

    return disturb
