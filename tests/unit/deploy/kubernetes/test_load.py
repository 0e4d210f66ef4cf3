"""The load of `make test-kubernetes` reports each text that fails or differs."""

import hashlib
import itertools

import ostinato
from tests.kubernetes.load import Load

TEXT = ["a", "b"]
HASH = hashlib.sha256(b"ab").hexdigest()
CUT_SEED = 2


class Stream(list):
    """The deltas of a text; the stream of one seed is cut."""

    num_resumed = 1

    def __init__(self, seed):
        super().__init__(TEXT)
        self._seed = seed

    def __iter__(self):
        yield TEXT[0]
        if self._seed == CUT_SEED:
            raise ostinato.StreamInterrupted("cut")
        yield from TEXT[1:]


class Client:
    """Streams a text for each seed."""

    def stream(self, _prompt, *, seed, **_fields):
        """Return the seed's stream."""
        return Stream(seed)


def run(hashes, num_completions):
    """Return the outcomes of a load of one worker that ends after some completions, by seed."""
    counter = itertools.count(1)
    load = Load(Client(), "demo", num_workers=1, num_seeds=3, max_tokens=10, hashes=hashes)
    load.run(lambda: next(counter) >= num_completions)
    return [(each.seed, each.outcome, each.error) for each in load.completions]


def test_a_text_that_fails_or_differs_is_reported():
    """Beside those that are the same."""
    expected = [(0, "same", ""), (1, "differed", ""), (2, "failed", "StreamInterrupted: cut")]
    assert run({"0": HASH, "1": "another", "2": HASH}, 3) == expected


def test_the_undisturbed_run_streams_each_seed_once():
    """Its failures count as such."""
    assert [outcome for _, outcome, _ in run(None, 0)] == ["recorded", "recorded", "failed"]
