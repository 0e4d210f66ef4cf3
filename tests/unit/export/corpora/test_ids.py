"""Token ids of a corpus are memory-mapped from a file, in the model's reading order."""

from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.tokenizer import CharacterTokenizer, WordTokenizer
from contract.tokenizers import huggingface
from export.corpora import ids as ids_module
from export.corpora import text as text_module
from export.corpora.corpus import Corpus
from export.corpora.ids import encode_corpus
from export.training.dataset import Sequences, SlidingWindows

DOCUMENTS = st.lists(st.text(st.sampled_from("ab. \n"), min_size=1, max_size=80).filter(str.strip), min_size=1)


@pytest.fixture(autouse=True, scope="module")
def small_pieces():
    """Shrink chunks and blocks, so that a small document has many of them."""
    with (
        patch.object(huggingface, "CHUNK_CHARACTERS", 3),
        patch.object(text_module, "BLOCK_BYTES", 11),
        patch.object(ids_module, "BLOCK_BYTES", 5),
        patch.object(ids_module, "_REVERSE_BLOCK", 4),
    ):
        yield


@pytest.mark.parametrize("ends", [True, False])
@pytest.mark.parametrize("kind", [CharacterTokenizer, WordTokenizer])
@settings(deadline=None)
@given(documents=DOCUMENTS)
def test_a_document_in_many_chunks_is_reversed_as_a_whole(kind, ends, documents):
    """Ids equal those of whole documents in both directions; an end token follows each document if documents end."""
    documents = documents if ends else documents[:1]
    tokenizer = kind.train([*documents, "ab"], end_token=ends)
    corpus = Corpus.of("c", documents, ends=ends)
    mark = [tokenizer.special.end] if ends else []
    for direction, step in (("forward", 1), ("backward", -1)):
        expected = [i for document in documents for i in tokenizer.encode(document)[::step] + mark]
        assert encode_corpus(corpus, tokenizer, direction).tolist() == expected


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_sequences_and_windows_are_views_of_the_mapped_ids(direction):
    """So a split needs no memory of the size of its ids."""
    corpus = Corpus.of("c", ["ab ab " * 200], ends=False)
    ids = encode_corpus(corpus, CharacterTokenizer.train("ab "), direction)
    assert isinstance(ids.base, np.memmap)
    for laid_out in (Sequences.for_training(ids, 2, 4, 10), SlidingWindows(ids, 4, 2, None, 10)):
        assert np.shares_memory(laid_out.ids, ids)
    assert np.shares_memory(Sequences.for_training(ids, 2, 4, 10).targets, ids)
