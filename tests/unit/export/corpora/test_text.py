"""Documents in a file are hashed, cut and read as if they were in memory."""

import hashlib
import math
from itertools import accumulate
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.tokenizers import huggingface
from export.corpora import text as text_module
from export.corpora.corpus import Corpus
from export.errors import CorpusError

DOCUMENTS = st.lists(
    st.text(st.sampled_from("ab é語😀\n"), min_size=1, max_size=30).filter(str.strip), min_size=1, max_size=12
)
FRACTIONS = st.floats(0.01, 0.99)


@pytest.fixture(autouse=True, scope="module")
def small_blocks():
    """Blocks, known positions and chunks so small that a few words have many of them."""
    with patch.object(text_module, "BLOCK_BYTES", 7), patch.object(huggingface, "CHUNK_CHARACTERS", 3):
        yield


def kept(length, fraction):
    """Return how many characters are not held out: rounded down, past what binary fractions make of the share."""
    return math.floor(length * (1 - fraction) + 1e-6)


@settings(deadline=None)
@given(documents=DOCUMENTS)
def test_documents_come_back_with_their_figures(documents):
    """In chunks, whole, counted and hashed, wherever a block ends within a character."""
    corpus = Corpus.of("c", documents, ends=True)
    assert corpus.documents == tuple(documents)
    assert "".join(text + "\0" * ends for text, ends in corpus.chunks()) == "".join(f"{each}\0" for each in documents)
    assert corpus.num_characters == sum(map(len, documents))
    assert corpus.sha256() == hashlib.sha256("\0".join(documents).encode()).hexdigest()


@settings(deadline=None)
@given(documents=DOCUMENTS, fraction=FRACTIONS)
def test_documents_are_cut_at_the_nearest_boundary(documents, fraction):
    """As a list of them would be; each part has its own figures, and can be cut again."""
    keep = kept(sum(map(len, documents)), fraction)
    boundaries = list(accumulate(map(len, documents)))[:-1]
    corpus = Corpus.of("c", documents, ends=True)
    if not boundaries:
        with pytest.raises(CorpusError):
            corpus.split(fraction)
        return
    distances = [abs(boundary - keep) for boundary in boundaries]
    count = distances.index(min(distances)) + 1
    for part, expected in zip(corpus.split(fraction), (documents[:count], documents[count:]), strict=True):
        assert part.documents == tuple(expected)
        assert (part.num_documents, part.num_characters) == (len(expected), sum(map(len, expected)))
        assert part.sha256() == Corpus.of("d", expected, ends=True).sha256()
        if len(expected) > 1:
            alone = Corpus.of("d", expected, ends=True).split(fraction)
            assert [each.documents for each in part.split(fraction)] == [each.documents for each in alone]


@settings(deadline=None)
@given(document=st.text("ab é語😀\n", min_size=1, max_size=200).filter(str.strip), fraction=FRACTIONS)
def test_a_running_text_is_cut_at_the_character(document, fraction):
    """Not at a byte, and also when a part of it is cut again."""
    corpus, keep = Corpus.of("c", [document], ends=False), kept(len(document), fraction)
    if keep in {0, len(document)}:
        with pytest.raises(CorpusError):
            corpus.split(fraction)
        return
    head, tail = corpus.split(fraction)
    assert (head.documents, tail.documents) == ((document[:keep],), (document[keep:],))
    again = len(tail.documents[0]) // 2
    if 0 < again < len(tail.documents[0]):
        assert [part.documents[0] for part in tail.split(0.5)] == [document[keep:][:again], document[keep:][again:]]


def test_excerpts_of_a_long_text_come_from_everywhere_in_it(monkeypatch):
    """And are a bounded part of it; of a short one they are all of it."""
    documents = [f"word {number} " for number in range(1000)]
    corpus = Corpus.of("c", documents, ends=True)
    assert corpus.excerpts() == tuple(documents)
    monkeypatch.setattr("export.corpora.corpus.SAMPLED_CHARACTERS", 1000)
    excerpts = corpus.excerpts()
    assert 500 < sum(map(len, excerpts)) <= 1000
    numbers = [int(word) for text in excerpts for word in text.split() if word.isdigit()]
    assert numbers[0] < 50
    assert numbers[-1] > 950
