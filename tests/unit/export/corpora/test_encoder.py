"""A corpus has the token ids that its tokenizer gives, memory-mapped in the model's reading order."""

from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.tokenizers import (
    CharacterTokenizer,
    ExactWordTokenizer,
    RegexTokenizer,
    Standardization,
    SubwordTokenizer,
    WordRules,
    WordTokenizer,
    huggingface,
)
from export.corpora import corpus as corpus_module
from export.corpora import encoder, spool
from export.corpora.encoder import Encoder, encode_corpus
from export.training.dataset import Sequences, SlidingWindows
from tests.unit.contract.scripts import ALL
from tests.unit.export.texts import corpus_of

WHITE = " \n\t\x0b\r\x1c\x85\xa0\u2028"
TOKENIZERS = {
    kind.unit: kind.train([ALL, ALL + WHITE + "don't ΑΣ aΣ.Α. a1"])
    for kind in (CharacterTokenizer, WordTokenizer, ExactWordTokenizer, SubwordTokenizer)
}
# A match has spaces, which part the segments of the others.
TOKENIZERS["regex"] = RegexTokenizer.train([ALL, "a a\nΣ \t1" * 2 + WHITE], regexes=[r"a a|\s+|Σ \t1"])
# Imported ones, from which a model is trained further.
TOKENIZERS["words with spaces"] = WordTokenizer(["<pad>", "<OOV>", "a a", "σ\n1"], WordRules("", split=","))
TOKENIZERS["standardized"] = CharacterTokenizer(
    ["<pad>", "[UNK]", *"aσ1 "], unknown="[UNK]", standardization=Standardization(lower=True, strip_punctuation=True)
)
DOCUMENTS = st.lists(st.text(st.sampled_from("ab. \n"), min_size=1, max_size=80).filter(str.strip), min_size=1)


@pytest.mark.parametrize("unit", TOKENIZERS)
@settings(deadline=None, max_examples=200)
@given(text=st.text(st.sampled_from("aΣΑ.'’İé\u0301語1,😀\ud800" + WHITE), max_size=60))
def test_ids_equal_those_of_the_tokenizer(unit, text):
    tokenizer = TOKENIZERS[unit]
    fast = Encoder(tokenizer)
    for _ in range(2):
        assert fast.encode(text).tolist() == tokenizer.encode(text)


@pytest.mark.parametrize("unit", TOKENIZERS)
def test_ids_of_every_script_equal_those_of_the_tokenizer(unit):
    tokenizer = TOKENIZERS[unit]
    for text in (ALL * 2, "語" * 300):
        assert Encoder(tokenizer).encode(text).tolist() == tokenizer.encode(text)


def test_the_cache_of_segments_is_bounded(monkeypatch):
    monkeypatch.setattr(encoder, "MAX_SEGMENTS", 10)
    fast = Encoder(TOKENIZERS["subword"])
    fast.encode(" ".join(f"w{number}" for number in range(100)))
    assert fast._encode_segment.cache_info().currsize == 10


@pytest.mark.parametrize(("num_words", "dtype"), [(100, np.uint8), (300, np.uint16), (70_000, np.uint32)])
def test_ids_have_the_smallest_sufficient_dtype(num_words, dtype):
    tokenizer = WordTokenizer.train([" ".join(f"w{number}" for number in range(num_words))])
    ids = Encoder(tokenizer).encode(f"w0 w{num_words - 1}")
    assert (ids.dtype, ids.tolist()) == (dtype, [2, num_words + 1])


@pytest.fixture(scope="module")
def small_blocks():
    """Shrink chunks and blocks, so that a small document has many of them."""
    with (
        patch.object(huggingface, "CHUNK_CHARACTERS", 3),
        patch.object(corpus_module, "BLOCK_BYTES", 11),
        patch.object(spool, "BLOCK_BYTES", 5),
        patch.object(encoder, "_REVERSE_BLOCK", 4),
    ):
        yield


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("ends", [True, False])
@pytest.mark.parametrize("kind", [CharacterTokenizer, WordTokenizer])
@settings(deadline=None)
@given(documents=DOCUMENTS)
def test_a_document_in_many_chunks_is_reversed_as_a_whole(kind, ends, documents):
    documents = documents if ends else documents[:1]
    tokenizer = kind.train([*documents, "ab"], end_token=ends)
    corpus = corpus_of("c", documents, ends=ends)
    mark = [tokenizer.special.end] if ends else []
    for direction, step in (("forward", 1), ("backward", -1)):
        expected = [i for document in documents for i in tokenizer.encode(document)[::step] + mark]
        assert encode_corpus(corpus, tokenizer, direction).tolist() == expected


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_sequences_and_windows_are_views_of_the_mapped_ids(direction):
    corpus = corpus_of("c", ["ab ab " * 200], ends=False)
    ids = encode_corpus(corpus, CharacterTokenizer.train("ab "), direction)
    assert isinstance(ids.base, np.memmap)
    for laid_out in (Sequences.for_training(ids, 2, 4, 10), SlidingWindows(ids, 4, 2, None, 10)):
        assert np.shares_memory(laid_out.ids, ids)
