"""The load of `make test-kubernetes` reports each text that fails or differs."""

import json

import pytest

from tests.kubernetes.load import DIFFERED, FAILED, IDENTICAL, NUM_SEEDS, Load


class Kubectl:
    """A cluster with one pod, whose log is the test's."""

    def __init__(self):
        self.log = []

    def run(self, *arguments, **_options):
        """Return the log; the other commands print nothing."""
        return "".join(f"{json.dumps(line)}\n" for line in self.log) if arguments[0] == "logs" else ""

    def until(self, condition, what):
        """Require a condition at once."""
        assert condition(), what


def line(seed, sha256="", error=""):
    """Return what the load generator prints for a completion."""
    return {"seed": seed, "sha256": sha256 or str(seed), "error": error}


@pytest.fixture
def kubectl():
    """A cluster that has streamed each seed once."""
    kubectl = Kubectl()
    kubectl.log = [line(seed) for seed in range(NUM_SEEDS)]
    return kubectl


@pytest.fixture
def load(kubectl):
    load = Load(kubectl, "gateway", "key", "image")
    load.record()
    return load


@pytest.mark.parametrize(
    ("completion", "outcome"), [(line(1), IDENTICAL), (line(1, "2"), DIFFERED), (line(1, error="cut"), FAILED)]
)
def test_a_text_is_compared_with_the_recorded_one_of_its_seed(load, completion, outcome):
    assert load.outcome(completion) == outcome


def test_an_error_before_the_first_fault_is_raised(kubectl):
    kubectl.log[3]["error"] = "cut"
    with pytest.raises(AssertionError, match="cut"):
        Load(kubectl, "gateway", "key", "image").record()
