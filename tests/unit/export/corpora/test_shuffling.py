"""Documents of any number and size are shuffled on disk, reproducibly."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.corpora import corpus as module
from tests.unit.export.texts import corpus_of

DOCUMENTS = st.lists(st.text("aé大\n ", min_size=1, max_size=9).map(lambda text: text + "."), min_size=1, max_size=40)


def shuffle(corpus, seed):
    return corpus.split(0, seed)[0]


@given(DOCUMENTS, st.integers(0, 2**31 - 1), st.sampled_from([1, 3, 50]))
@settings(max_examples=60, deadline=None)
def test_the_shuffled_order_is_complete_and_independent_of_the_block_size(documents, seed, block_bytes):
    corpus = corpus_of("c", documents, ends=True)
    whole = shuffle(corpus, seed).documents
    assert sorted(whole) == sorted(documents)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK_BYTES", block_bytes)
        assert shuffle(corpus, seed).documents == whole


def test_a_split_is_shuffled_on_its_own():
    """Documents before and after it in the same file do not enter."""
    for part in corpus_of("c", [f"name {i}" for i in range(40)], ends=True).split(0.5, 0):
        assert sorted(shuffle(part, 5).documents) == sorted(part.documents)


def test_every_permutation_is_about_equally_likely():
    counts = {}
    corpus = corpus_of("c", list("abcd"), ends=True)
    for seed in range(2400):
        order = "".join(shuffle(corpus, seed).documents)
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 24
    assert 60 < min(counts.values()) <= max(counts.values()) < 150
