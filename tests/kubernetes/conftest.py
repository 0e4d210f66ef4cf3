"""The deployment and the load that all tests of the cluster share, and the table of faults."""

import contextlib
import json
import subprocess
import time
from collections import Counter

import pytest

from tests.kubernetes.deployment import GATEWAY, Deployment
from tests.kubernetes.load import DIFFERED, FAILED, IDENTICAL, Load
from tests.paths import ROOT

HEADER = (
    "| fault | identical | failed | differed | resumed | longest gap | all ready |\n|---|---|---|---|---|---|---|\n"
)


class Fault:
    """A fault under load: its name, and how long it took until all was ready again."""

    def __init__(self, name):
        self.name = name
        self._injected_at = time.monotonic()
        self.recovery_s = None

    def note_recovery(self):
        """Note that everything is ready again; only the first time counts."""
        if self.recovery_s is None:
            self.recovery_s = time.monotonic() - self._injected_at

    def row(self, completions, outcomes):
        """Return its row of the table in docs/scaling.md."""
        counts = Counter(outcomes)
        gap_s = max(each["longest_gap_s"] for each in completions)
        num_resumed = sum(each["num_resumed"] for each in completions)
        cells = [self.name, counts[IDENTICAL], counts[FAILED], counts[DIFFERED], num_resumed]
        return f"| {' | '.join(map(str, cells))} | {gap_s:.0f} s | {self.recovery_s:.0f} s |"


@pytest.fixture(scope="session")
def deployment(tmp_path_factory):
    """The project, deployed by the page; its namespace is removed in the end."""
    found = subprocess.run(["kubectl", "config", "current-context"], capture_output=True, check=False)
    assert found.returncode == 0, "kubectl has no current context: CONTRIBUTING.md says how to make a cluster"
    deployment = Deployment(tmp_path_factory.mktemp("kubernetes"))
    deployment.require_no_namespace()
    try:
        deployment.follow_the_page()
        yield deployment
    finally:
        deployment.remove()


@pytest.fixture(scope="session")
def load(deployment):
    """The load, which runs during all faults."""
    (image,) = {pod["spec"]["containers"][0]["image"] for pod in deployment.kubectl.pods(GATEWAY)}
    load = Load(deployment.kubectl, GATEWAY, deployment.key, image)
    load.record()
    yield load
    load.stop()


@pytest.fixture(scope="session")
def table():
    """The file that gets a row for each fault, in the form of docs/scaling.md."""
    path = ROOT / "build/kubernetes/faults.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(HEADER)
    path.with_suffix(".jsonl").write_text("")
    return path


@pytest.fixture
def inject(deployment, load, table):
    """Inject a fault under load: a context manager, by the row's name and the nodes that the load avoids.

    In the end all pods are ready, and no text has failed or differs. The test may note an earlier recovery.
    """

    @contextlib.contextmanager
    def inject(name, avoid=()):
        deployment.until_steady()
        load.avoid(avoid)
        num_before = len(load.completions())
        fault = Fault(name)
        yield fault
        deployment.until_steady()
        fault.note_recovery()
        completions = load.in_flight_after(num_before)
        outcomes = [load.outcome(each) for each in completions]
        row = fault.row(completions, outcomes)
        with table.open("a") as file:
            file.write(f"{row}\n")
        # What the table summarizes, one line per fault.
        with table.with_suffix(".jsonl").open("a") as file:
            file.write(f"{json.dumps({'name': name, 'completions': completions})}\n")
        wrong = [each for each, outcome in zip(completions, outcomes, strict=True) if outcome != IDENTICAL]
        assert not wrong, f"{row}\n{wrong}"

    return inject
