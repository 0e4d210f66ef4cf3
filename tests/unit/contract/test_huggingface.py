"""Long texts are encoded in chunks, with the ids of the whole text."""

import re

import pytest

from contract.tokenizer import ExactWordTokenizer, SubwordTokenizer
from contract.tokenizers import huggingface
from tests.unit.contract.scripts import ALL

KINDS = [ExactWordTokenizer, SubwordTokenizer]


@pytest.mark.parametrize("kind", KINDS)
def test_chunks_encode_as_the_whole_text(kind, monkeypatch):
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


@pytest.mark.parametrize("kind", KINDS)
def test_a_split_where_white_space_begins_does_not_change_the_ids(kind):
    """The text on one side does not affect the tokens on the other."""
    text = ALL + " -\x1c- a\x1cb \n \n  \t\n c - \x85- "
    tokenizer = kind.train([text] * 4)
    whole = tokenizer.encode(text)
    cuts = [match.start() for match in huggingface.CUT.finditer(text)]
    assert len(cuts) > 50
    assert all(tokenizer.encode(text[:cut]) + tokenizer.encode(text[cut:]) == whole for cut in cuts)


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_without_white_space_is_chunked_and_decoded_exactly(kind):
    """So that memory is bounded, whatever a client sends."""
    text = "ab語" * huggingface.CHUNK_CHARACTERS
    tokenizer = kind.train([text[:100]])
    assert max(map(len, huggingface.chunks(text))) == 2 * huggingface.CHUNK_CHARACTERS
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_merges_are_learnt_from_a_bounded_part_of_text_without_white_space(monkeypatch):
    """Its words hardly repeat, so that more of it costs memory and time in vain; other text is used to its end."""
    monkeypatch.setattr(huggingface, "CHUNK_CHARACTERS", 50)
    monkeypatch.setattr(huggingface, "MAX_ENDLESS_CHUNKS", 2)
    endless = "ab" * 100 + "cd" * 100 + "\n" + "ef " * 100
    tokenizer = SubwordTokenizer.train([endless], vocab_size=400)
    labels = {tokenizer.label(i) for i in range(len(tokenizer))}
    assert {"ab", "ef"} <= labels
    assert "cd" not in labels
    assert tokenizer.decode(tokenizer.encode(endless)) == endless


@pytest.mark.parametrize("kind", KINDS)
def test_a_lone_surrogate_becomes_u_fffd(kind):
    """JSON can hold one, though it is no character; offsets stay valid."""
    tokenizer = kind.train(["a\ufffdb"] * 2)
    assert tokenizer.decode(tokenizer.encode("a\ud83db")) == "a\ufffdb"
    assert len(tokenizer.offsets("a\udc00b")) == len(tokenizer.encode("a\ufffdb"))
    assert kind.train(["a\ud83db"] * 2) == tokenizer
