"""The caching encoder returns the same ids as the tokenizer."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.tokenizer import CharacterTokenizer, ExactWordTokenizer, SubwordTokenizer, WordTokenizer
from export.corpora import encoder
from export.corpora.encoder import Encoder
from tests.unit.contract.scripts import ALL

WHITE = " \n\t\x0b\r\x1c\x85\xa0\u2028"
TOKENIZERS = {
    kind.unit: kind.train([ALL, ALL + WHITE + "don't ΑΣ aΣ.Α. a1"])
    for kind in (CharacterTokenizer, WordTokenizer, ExactWordTokenizer, SubwordTokenizer)
}


@pytest.mark.parametrize("unit", TOKENIZERS)
@settings(deadline=None, max_examples=200)
@given(text=st.text(st.sampled_from("aΣΑ.'’İé\u0301語1,😀\ud800" + WHITE), max_size=60))
def test_ids_equal_those_of_the_tokenizer(unit, text):
    """On a cache miss and on a hit, for all kinds of white space, unknown characters and the empty text."""
    tokenizer = TOKENIZERS[unit]
    fast = Encoder(tokenizer)
    for _ in range(2):
        assert fast.encode(text).tolist() == tokenizer.encode(text)


@pytest.mark.parametrize("unit", TOKENIZERS)
def test_ids_of_every_script_equal_those_of_the_tokenizer(unit):
    """Also of scripts that are written without spaces."""
    tokenizer = TOKENIZERS[unit]
    assert Encoder(tokenizer).encode(ALL * 2).tolist() == tokenizer.encode(ALL * 2)
    assert Encoder(tokenizer).encode("語" * 300).tolist() == tokenizer.encode("語" * 300)


def test_the_cache_is_bounded(monkeypatch):
    """In entries and in characters per entry; text that is not cached is encoded all the same."""
    monkeypatch.setattr(encoder, "MAX_SEGMENTS", 10)
    tokenizer = TOKENIZERS["subword"]
    fast = Encoder(tokenizer)
    text = " ".join(f"w{number}" for number in range(100)) + " " + "x" * 50
    assert fast.encode(text).tolist() == tokenizer.encode(text)
    assert len(fast._segments) == 10
    assert max(map(len, fast._segments)) <= encoder.MAX_CHARACTERS


@pytest.mark.parametrize(("num_words", "dtype"), [(100, np.uint8), (300, np.uint16), (70_000, np.uint32)])
def test_ids_have_the_smallest_sufficient_dtype(num_words, dtype):
    """So a large text of characters takes one byte per token."""
    tokenizer = WordTokenizer.train([" ".join(f"w{number}" for number in range(num_words))])
    ids = Encoder(tokenizer).encode(f"w0 w{num_words - 1}")
    assert (ids.dtype, ids.tolist()) == (dtype, [2, num_words + 1])
