"""Best-first and beam search, against the enumeration of every text of small models."""

import itertools
import math
import tracemalloc

import numpy as np
import pytest

from service.generation import search
from service.generation.search import BestFirstSearch, beam_search

END, VOCABULARY, MAX_TOKENS = 2, 5, 4


def distribution(token_ids, ties, seed=7):
    """Return the log probabilities after a prefix, different after each, or the same after all of them: with ties."""
    rng = np.random.default_rng([seed, *([] if ties else token_ids)])
    logits = rng.integers(0, 3, VOCABULARY) if ties else rng.normal(0, 2, VOCABULARY)
    return np.float32(logits - np.log(np.exp(logits).sum()))


class FakeSpace:
    """Texts of up to `MAX_TOKENS` tokens, or up to the end token."""

    def open(self, node, logprobs):  # noqa: ARG002 - the protocol's
        return np.arange(VOCABULARY, dtype=np.int32), None

    def extend(self, node, token_id):
        return None, token_id == END or node.depth + 1 == MAX_TOKENS


class FakeModel:
    """Counts its expansions; the state after a prefix are its tokens."""

    def __init__(self, ties=False, seed=7):
        self.ties, self.seed, self.expanded = ties, seed, []

    def __call__(self, nodes):
        for node in nodes:
            assert node.parent is None or node.parent.state.tolist() == node.token_ids[:-1]
        self.expanded += [tuple(node.token_ids) for node in nodes]
        prefixes = [node.token_ids for node in nodes]
        return [(distribution(ids, self.ties, self.seed), np.array(ids, np.float32)) for ids in prefixes]


def every_text(ties=False):
    """Return every text with its log probability, the most probable first, in a tie by its tokens."""
    texts = []
    for length in range(1, MAX_TOKENS + 1):
        for ids in itertools.product(range(VOCABULARY), repeat=length):
            if END not in ids[:-1] and (ids[-1] == END or length == MAX_TOKENS):
                logprob = 0.0
                for i, token_id in enumerate(ids):
                    logprob += float(distribution(ids[:i], ties)[token_id])
                texts.append((logprob, list(ids)))
    return sorted(texts, key=lambda text: (-text[0], text[1]))


@pytest.fixture(params=[1, 2, search.MAX_KEPT])
def kept(request, monkeypatch):
    """Expanded prefixes keep fewer tokens than there are, or all of them."""
    monkeypatch.setattr(search, "MAX_KEPT", request.param)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.usefixtures("kept")
def test_best_first_search_finds_every_text_in_order(ties):
    found = list(BestFirstSearch(FakeSpace(), FakeModel(ties), 10_000).start(None))
    assert [(node.logprob, node.token_ids) for node in found] == every_text(ties)


@pytest.mark.usefixtures("kept")
def test_a_limited_search_finds_the_beginning_of_the_list_and_says_so():
    limited = BestFirstSearch(FakeSpace(), FakeModel(), 40)
    found = [node.token_ids for node in limited.start(None)]
    assert limited.limit_reached
    assert limited.num_expanded <= 40
    assert 0 < len(found) < len(every_text())
    assert found == [ids for _, ids in every_text()][: len(found)]


def test_the_most_probable_text_needs_few_expansions():
    model = FakeModel()
    assert next(BestFirstSearch(FakeSpace(), model, 10_000).start(None)).token_ids == every_text()[0][1]
    assert len(model.expanded) < sum(4**depth for depth in range(MAX_TOKENS)) / 2


def beams(width, penalty=0.0, ties=False, *, seed=7, until_the_end=False):
    def score(node):
        return node.logprob / node.depth**penalty

    def max_score(node):
        return math.inf if until_the_end else max(score(node), node.logprob / MAX_TOKENS**penalty)

    found = beam_search(FakeSpace(), FakeModel(ties, seed), None, width=width, score=score, max_score=max_score)
    return [(score(node), node.token_ids) for node in found]


def test_a_beam_of_width_one_is_greedy():
    ids = []
    while END not in ids and len(ids) < MAX_TOKENS:
        ids.append(int(distribution(ids, False).argmax()))
    assert [found for _, found in beams(1)] == [ids]


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("penalty", [0.0, 0.7, 1.0, 2.0, -1.0])
def test_a_beam_as_wide_as_the_tree_finds_every_text(penalty, ties):
    expected = sorted((-logprob / len(ids) ** penalty, ids) for logprob, ids in every_text(ties))
    assert beams(1000, penalty, ties) == [(-score, ids) for score, ids in expected]


@pytest.mark.parametrize("width", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0, -1.0])
def test_a_beam_that_ends_early_has_missed_nothing(width, penalty):
    for seed in range(20):
        assert beams(width, penalty, seed=seed) == beams(width, penalty, seed=seed, until_the_end=True)


def test_a_wide_beam_takes_little_memory():
    """Of 500 prefixes with 4,000 tokens each, 1,000 continuations are kept; all of them would take 32 MB."""
    width, vocabulary = 500, 4000
    rng = np.random.default_rng(0)

    class Space(FakeSpace):
        def open(self, node, logprobs):  # noqa: ARG002 - the protocol's
            return np.arange(vocabulary, dtype=np.int32), None

    def expand(nodes):
        return ((rng.normal(size=vocabulary).astype(np.float32), np.zeros(1, np.float32)) for _ in nodes)

    def logprob(node):
        return node.logprob

    tracemalloc.start()
    found = beam_search(Space(), expand, None, width=width, score=logprob, max_score=lambda _: math.inf)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found) == width
    assert peak < 4e6


def test_known_expansions_take_no_place_in_a_batch_and_change_nothing():
    batches = []

    class Model(FakeModel):
        def __call__(self, nodes):
            batches.append(len(nodes))
            return super().__call__(nodes)

    def is_known(node):
        return node.token_id is not None and node.token_id % 2 == 0

    def found(is_known):
        batches.clear()
        texts = [node.token_ids for node in BestFirstSearch(FakeSpace(), Model(), 10_000, is_known).start(None)]
        return texts, sum(size > 1 for size in batches)

    texts, num_batches = found(lambda _: False)
    assert found(is_known)[0] == texts
    assert found(is_known)[1] < num_batches
