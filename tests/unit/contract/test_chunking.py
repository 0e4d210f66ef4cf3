"""Long texts are split into chunks that encode, and train, as the whole text, in whatever parts they arrive."""

import re
from itertools import pairwise
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.tokenizers import CharacterTokenizer, ExactWordTokenizer, SubwordTokenizer, WordTokenizer, huggingface
from contract.tokenizers.huggingface import Chunker
from tests.unit.contract.scripts import ALL

LIBRARY_KINDS = [ExactWordTokenizer, SubwordTokenizer]
KINDS = [CharacterTokenizer, WordTokenizer, *LIBRARY_KINDS]
# Words, capital sigma and the characters that its lower case depends on, letters that get longer in lower case,
# combining marks, and white space: Python's only, the regular expression library's only, and that of both.
TEXTS = st.text(st.sampled_from("abΣΑ.:'’İé\u0301語1, \n\t\x0b\x1c\x85\xa0\u2028"), min_size=1, max_size=200)
PLACES = st.lists(st.integers(0, 200), max_size=4)


def parted(text, places):
    edges = [0, *sorted(min(place, len(text)) for place in places), len(text)]
    return [text[start:stop] for start, stop in pairwise(edges)]


def cut(text, places, size=3, endless=1 << 20):
    cutter = Chunker(endless)
    with patch.object(huggingface, "CHUNK_CHARACTERS", size):
        fed = [piece for part in parted(text, places) for piece in cutter.feed(part)]
        return [*fed, cutter.end()]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150)
@given(text=TEXTS, places=PLACES)
def test_chunks_encode_as_the_whole_text(kind, text, places):
    tokenizer = kind.train([text])
    found = cut(text, places)
    assert "".join(found) == text
    assert [i for piece in found for i in tokenizer.encode(piece)] == tokenizer.encode(text)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40)
@given(text=TEXTS, places=PLACES)
def test_training_on_chunks_gives_the_vocabulary_of_the_whole_text(kind, text, places):
    learned = kind.train(iter(cut(text * 2, places)))
    assert learned.to_json() == kind.train([text * 2]).to_json()


def test_chunks_end_at_white_space_soon_after_their_size():
    found = cut("ab cd " * 1000, range(0, 6000, 50), size=10)
    assert max(map(len, found)) <= 20
    assert len(found) > 100


@pytest.mark.parametrize("kind", LIBRARY_KINDS)
def test_a_text_without_white_space_is_split_where_the_tokenizer_splits_it(kind):
    text = "ab " + "語é1" * 400 + " c"
    tokenizer = kind.train([text])
    with patch.object(huggingface, "CHUNK_CHARACTERS", 10):
        whole = tokenizer.encode(text)
        found = cut(text, [500], size=10, endless=100)
        assert max(map(len, found)) <= 120
        assert len(found) > 10
        assert [i for piece in found for i in tokenizer.encode(piece)] == whole


def test_a_word_is_never_split_however_long():
    """The words of Keras extend from space to space."""
    long = "x" * 1000
    assert [word for piece in cut(f"a {long} b", [3, 400]) for word in piece.split()] == ["a", long, "b"]


@pytest.mark.parametrize("kind", LIBRARY_KINDS)
def test_text_of_every_script_is_encoded_in_chunks_as_a_whole(kind, monkeypatch):
    """No word, run of white space or merged pair is split, wherever a chunk ends."""
    text = ALL + " -\x1c- a\x1cb \n \n  \t\n c - \x85- "
    tokenizer = kind.train([text] * 4)
    whole = tokenizer.encode(text)
    for size in range(2, 60):
        # A longer run without white space would be split anywhere.
        monkeypatch.setattr(huggingface, "CHUNK_CHARACTERS", size + max(map(len, re.split("[ \t\n]", text))))
        pieces = list(huggingface.chunks(text))
        assert len(pieces) > 3
        assert "".join(pieces) == text
        assert tokenizer.encode(text) == whole


@pytest.mark.parametrize("kind", LIBRARY_KINDS)
def test_a_text_without_white_space_is_chunked_and_decoded_exactly(kind):
    text = "ab語" * huggingface.CHUNK_CHARACTERS
    tokenizer = kind.train([text[:100]])
    assert max(map(len, huggingface.chunks(text))) == 2 * huggingface.CHUNK_CHARACTERS
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_merges_are_learnt_from_a_bounded_part_of_text_without_white_space(monkeypatch):
    monkeypatch.setattr(huggingface, "CHUNK_CHARACTERS", 50)
    monkeypatch.setattr(huggingface, "MAX_ENDLESS_CHUNKS", 2)
    endless = "ab" * 100 + "cd" * 100 + "\n" + "ef " * 100
    tokenizer = SubwordTokenizer.train([endless], vocab_size=400)
    labels = {tokenizer.label(i) for i in range(len(tokenizer))}
    assert {"ab", "ef"} <= labels
    assert "cd" not in labels
    assert tokenizer.decode(tokenizer.encode(endless)) == endless


@pytest.mark.parametrize("kind", LIBRARY_KINDS)
def test_a_lone_surrogate_becomes_u_fffd(kind):
    """JSON can hold one, though it is no character; offsets stay valid."""
    tokenizer = kind.train(["a\ufffdb"] * 2)
    assert tokenizer.decode(tokenizer.encode("a\ud83db")) == "a\ufffdb"
    assert len(tokenizer.offsets("a\udc00b")) == len(tokenizer.encode("a\ufffdb"))
    assert kind.train(["a\ud83db"] * 2).to_json() == tokenizer.to_json()
