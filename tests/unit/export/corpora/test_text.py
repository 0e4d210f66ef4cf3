"""Documents on disk are hashed, split and read as if they were in memory."""

import hashlib
import math
from itertools import accumulate
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.tokenizers import huggingface
from export.corpora import corpus as corpus_module
from export.corpora import text as text_module
from export.corpora.corpus import Corpus
from export.errors import CorpusError

DOCUMENTS = st.lists(
    st.text(st.sampled_from("ab é語😀\n"), min_size=1, max_size=30).filter(str.strip), min_size=1, max_size=12
)
FRACTIONS = st.floats(0.01, 0.99)


@pytest.fixture(autouse=True, scope="module")
def small_blocks():
    """Shrink blocks and chunks, so that a few words have many of them. Documents keep their order."""
    with (
        patch.object(text_module, "BLOCK_BYTES", 7),
        patch.object(huggingface, "CHUNK_CHARACTERS", 3),
        patch.object(corpus_module, "shuffle_documents", lambda text, _: text),
    ):
        yield


def kept(length, fraction):
    """Return the size of the training split in characters: rounded down, with a tolerance for binary fractions."""
    return math.floor(length * (1 - fraction) + 1e-6)


@settings(deadline=None)
@given(documents=DOCUMENTS)
def test_stored_documents_have_the_right_text_size_and_hash(documents):
    """As chunks and as whole documents, also where a block ends within a character."""
    corpus = Corpus.of("c", documents, ends=True)
    assert corpus.documents == tuple(documents)
    assert "".join(text + "\0" * ends for text, ends in corpus.chunks()) == "".join(f"{each}\0" for each in documents)
    assert corpus.num_characters == sum(map(len, documents))
    assert corpus.sha256() == hashlib.sha256("\0".join(documents).encode()).hexdigest()


@settings(deadline=None)
@given(documents=DOCUMENTS, fraction=FRACTIONS)
def test_documents_are_split_at_the_nearest_boundary(documents, fraction):
    """Like a list of documents; each part has its own size and hash, and can be split again."""
    keep = kept(sum(map(len, documents)), fraction)
    boundaries = list(accumulate(map(len, documents)))[:-1]
    corpus = Corpus.of("c", documents, ends=True)
    if not boundaries:
        with pytest.raises(CorpusError):
            corpus.split(fraction, 0)
        return
    distances = [abs(boundary - keep) for boundary in boundaries]
    count = distances.index(min(distances)) + 1
    for part, expected in zip(corpus.split(fraction, 0), (documents[:count], documents[count:]), strict=True):
        assert part.documents == tuple(expected)
        assert (part.num_documents, part.num_characters) == (len(expected), sum(map(len, expected)))
        assert part.sha256() == Corpus.of("d", expected, ends=True).sha256()
        if len(expected) > 1:
            alone = Corpus.of("d", expected, ends=True).split(fraction, 0)
            assert [each.documents for each in part.split(fraction, 0)] == [each.documents for each in alone]


@settings(deadline=None)
@given(document=st.text("ab é語😀\n", min_size=1, max_size=200).filter(str.strip), fraction=FRACTIONS)
def test_a_running_text_is_split_at_a_character_not_a_byte(document, fraction):
    """A part of it can be split again in the same way."""
    corpus, keep = Corpus.of("c", [document], ends=False), kept(len(document), fraction)
    if keep in {0, len(document)}:
        with pytest.raises(CorpusError):
            corpus.split(fraction, 0)
        return
    head, tail = corpus.split(fraction, 0)
    assert (head.documents, tail.documents) == ((document[:keep],), (document[keep:],))
    again = len(tail.documents[0]) // 2
    if 0 < again < len(tail.documents[0]):
        assert [part.documents[0] for part in tail.split(0.5, 0)] == [document[keep:][:again], document[keep:][again:]]


def test_excerpts_of_a_long_text_come_from_all_parts_of_it(monkeypatch):
    """Their total size is bounded; the excerpts of a short text are all of it."""
    documents = [f"word {number} " for number in range(1000)]
    corpus = Corpus.of("c", documents, ends=True)
    assert corpus.excerpts() == tuple(documents)
    monkeypatch.setattr("export.corpora.corpus.SAMPLED_CHARACTERS", 1000)
    excerpts = corpus.excerpts()
    assert 500 < sum(map(len, excerpts)) <= 1000
    numbers = [int(word) for text in excerpts for word in text.split() if word.isdigit()]
    assert numbers[0] < 50
    assert numbers[-1] > 950
