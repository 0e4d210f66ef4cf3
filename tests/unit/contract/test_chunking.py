"""A long text that comes in parts is cut into pieces that are encoded, and learnt from, as the whole."""

from itertools import pairwise
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.tokenizer import CharacterTokenizer, ExactWordTokenizer, SubwordTokenizer, WordTokenizer
from contract.tokenizers import chunking, huggingface
from contract.tokenizers.chunking import Chunker

KINDS = [CharacterTokenizer, WordTokenizer, ExactWordTokenizer, SubwordTokenizer]
# Words, capital sigma and what its lower case looks across, letters that grow in lower case, marks, and white space of
# every kind: Python's alone, of the expressions' library alone, and what both have.
TEXTS = st.text(st.sampled_from("abΣΑ.:'’İé\u0301語1, \n\t\x0b\x1c\x85\xa0\u2028"), min_size=1, max_size=200)
PLACES = st.lists(st.integers(0, 200), max_size=4)


def parted(text, places):
    """Cut a text at some places, wherever they are."""
    edges = [0, *sorted(min(place, len(text)) for place in places), len(text)]
    return [text[start:stop] for start, stop in pairwise(edges)]


def cut(text, places, size=3, endless=1 << 20):
    """Feed a text in parts and return its pieces."""
    cutter = Chunker()
    with patch.object(huggingface, "CHUNK_CHARACTERS", size), patch.object(chunking, "MAX_ENDLESS", endless):
        fed = [piece for part in parted(text, places) for piece in cutter.feed(part)]
        return [*fed, cutter.end()]


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=150)
@given(text=TEXTS, places=PLACES)
def test_pieces_encode_as_the_whole(kind, text, places):
    """Whatever parts the text comes in."""
    tokenizer = kind.train([text])
    found = cut(text, places)
    assert "".join(found) == text
    assert [i for piece in found for i in tokenizer.encode(piece)] == tokenizer.encode(text)


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=40)
@given(text=TEXTS, places=PLACES)
def test_a_vocabulary_of_pieces_is_that_of_the_whole(kind, text, places):
    """The same tokens with the same ids, though each piece comes once."""
    learnt = kind.train(iter(cut(text * 2, places)))
    assert learnt.to_json() == kind.train([text * 2]).to_json()


def test_pieces_are_short_where_there_is_white_space():
    """Of a long text little is held."""
    found = cut("ab cd " * 1000, range(0, 6000, 50), size=10)
    assert max(map(len, found)) <= 20
    assert len(found) > 100


@pytest.mark.parametrize("kind", [ExactWordTokenizer, SubwordTokenizer])
def test_a_text_without_white_space_is_cut_where_the_tokenizer_cuts_it(kind):
    """So even pieces of it have the ids of the whole."""
    text = "ab " + "語é1" * 400 + " c"
    tokenizer = kind.train([text])
    with patch.object(huggingface, "CHUNK_CHARACTERS", 10):
        whole = tokenizer.encode(text)
        found = cut(text, [500], size=10, endless=100)
        assert max(map(len, found)) <= 120
        assert len(found) > 10
        assert [i for piece in found for i in tokenizer.encode(piece)] == whole


def test_a_word_is_not_cut_however_long_it_is():
    """Keras's words reach from space to space."""
    long = "x" * 1000
    assert [word for piece in cut(f"a {long} b", [3, 400]) for word in piece.split()] == ["a", long, "b"]
