"""The load of `make test-kubernetes` reports each text that fails or differs."""

import json

import pytest

import sostenuto
from tests.kubernetes.load import DIFFERED, FAILED, IDENTICAL, NUM_SEEDS, Load
from tests.kubernetes.load_generator import stream


class Stream(list):
    """The deltas of a text, after which the connection may be lost."""

    num_resumed = 1

    def __init__(self, deltas, error=None):
        super().__init__(deltas)
        self._error = error

    def __iter__(self):
        yield from super().__iter__()
        if self._error:
            raise self._error


class Client:
    """Streams one text."""

    def __init__(self, deltas, error=None):
        self._stream = Stream(deltas, error)

    def stream(self, _prompt, **_fields):
        """Return the text."""
        return self._stream


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
    """A load that has recorded the text of each seed."""
    load = Load(kubectl, "gateway", "key", "image")
    load.record()
    return load


def test_a_lost_connection_is_an_error():
    completion = stream(Client(["a"], sostenuto.StreamInterrupted("cut")), "demo", 2, 10)
    assert (completion.seed, completion.error, completion.num_resumed) == (2, "StreamInterrupted: cut", 1)


def test_equal_texts_have_equal_hashes_however_they_are_split():
    """Deltas depend on timing."""
    split, whole, other = (stream(Client(deltas), "demo", 0, 10).sha256 for deltas in (["a", "b"], ["ab"], ["ba"]))
    assert split == whole != other


@pytest.mark.parametrize(
    ("completion", "outcome"), [(line(1), IDENTICAL), (line(1, "2"), DIFFERED), (line(1, error="cut"), FAILED)]
)
def test_a_text_is_compared_with_the_recorded_one_of_its_seed(load, completion, outcome):
    assert load.outcome(completion) == outcome


def test_an_error_before_the_first_fault_is_raised(kubectl):
    """There would be nothing to compare with."""
    kubectl.log[3]["error"] = "cut"
    with pytest.raises(AssertionError, match="cut"):
        Load(kubectl, "gateway", "key", "image").record()
