"""Long texts are encoded piece by piece, as if at once."""

import re

import pytest

from contract.tokenizer import ExactWordTokenizer, SubwordTokenizer
from contract.tokenizers import huggingface
from tests.unit.contract.scripts import ALL

KINDS = [ExactWordTokenizer, SubwordTokenizer]


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_encode_as_the_whole_does(kind, monkeypatch):
    """No word, no run of white space and no pair is cut, wherever a piece ends."""
    text = ALL + " -\x1c- a\x1cb \n \n  \t\n c - \x85- "
    tokenizer = kind.train([text] * 4)
    whole = tokenizer.encode(text)
    for size in range(2, 60):
        # A longer run without white space would be cut anywhere.
        monkeypatch.setattr(huggingface, "CHUNK_CHARACTERS", size + max(map(len, re.split("[ \t\n]", text))))
        pieces = list(huggingface.chunks(text))
        assert len(pieces) > 3
        assert "".join(pieces) == text
        assert tokenizer.encode(text) == whole


@pytest.mark.parametrize("kind", KINDS)
def test_every_place_where_white_space_begins_is_one_to_cut_at(kind):
    """What stands on one side changes nothing on the other."""
    text = ALL + " -\x1c- a\x1cb \n \n  \t\n c - \x85- "
    tokenizer = kind.train([text] * 4)
    whole = tokenizer.encode(text)
    cuts = [match.start() for match in huggingface.CUT.finditer(text)]
    assert len(cuts) > 50
    assert all(tokenizer.encode(text[:cut]) + tokenizer.encode(text[cut:]) == whole for cut in cuts)


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_without_white_space_is_cut_and_comes_back(kind):
    """So memory is bounded, whatever a client sends."""
    text = "ab語" * huggingface.CHUNK_CHARACTERS
    tokenizer = kind.train([text[:100]])
    assert max(map(len, huggingface.chunks(text))) == 2 * huggingface.CHUNK_CHARACTERS
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_merges_are_learnt_from_a_bounded_part_of_text_without_white_space(monkeypatch):
    """Its words hardly repeat, so all of it would cost memory and time; what has white space is learnt to its end."""
    monkeypatch.setattr(huggingface, "CHUNK_CHARACTERS", 50)
    monkeypatch.setattr(huggingface, "MAX_ENDLESS_CHUNKS", 2)
    endless = "ab" * 100 + "cd" * 100 + "\n" + "ef " * 100
    tokenizer = SubwordTokenizer.train([endless], vocab_size=400)
    labels = {tokenizer.label(i) for i in range(len(tokenizer))}
    assert {"ab", "ef"} <= labels
    assert "cd" not in labels
    assert tokenizer.decode(tokenizer.encode(endless)) == endless


@pytest.mark.parametrize("kind", KINDS)
def test_half_of_a_surrogate_pair_becomes_a_replacement(kind):
    """It is no character, and JSON can hold one; places in the text stay true."""
    tokenizer = kind.train(["a\ufffdb"] * 2)
    assert tokenizer.decode(tokenizer.encode("a\ud83db")) == "a\ufffdb"
    assert len(tokenizer.offsets("a\udc00b")) == len(tokenizer.encode("a\ufffdb"))
    assert kind.train(["a\ud83db"] * 2) == tokenizer
