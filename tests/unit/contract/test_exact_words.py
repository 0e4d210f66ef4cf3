"""Exact words: decoding gives the text back, and what is not held is spelt."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as HuggingFaceTokenizer

from contract.errors import TokenizerError
from contract.tokenizer import ExactWordTokenizer
from tests.unit.contract.scripts import ALL, SCRIPTS, texts

TOKENIZER = ExactWordTokenizer.train([ALL, ALL], num_words=150)


def pieces(tokenizer, text):
    """Return the tokens of a text."""
    return [tokenizer.tokens[i] for i in tokenizer.encode(text)]


def words(text):
    """Return the tokens of a text of whose words each is held."""
    return pieces(ExactWordTokenizer.train([text, text]), text)


@settings(deadline=None, max_examples=300)
@given(learnt=texts, num_words=st.one_of(st.none(), st.integers(3, 30)))
def test_a_text_that_was_learnt_comes_back_exactly(learnt, num_words):
    """However few words are held, their characters are."""
    tokenizer = ExactWordTokenizer.train([learnt], num_words=num_words)
    ids = tokenizer.encode(learnt)
    assert tokenizer.special.unknown not in ids
    assert tokenizer.decode(ids) == learnt


@settings(deadline=None, max_examples=300)
@given(learnt=texts, text=texts)
def test_only_an_unseen_character_is_unknown(learnt, text):
    """Every other character of any text comes back, in its place."""
    tokenizer = ExactWordTokenizer.train([learnt])
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == "".join(c for c in text if c in learnt)
    assert ids.count(tokenizer.special.unknown) == sum(c not in learnt for c in text)


@settings(deadline=None, max_examples=300)
@given(learnt=texts, text=texts)
def test_each_token_stands_at_its_offset(learnt, text):
    """What stands from one offset to the next is the token, or one unseen character."""
    tokenizer = ExactWordTokenizer.train([learnt, learnt])
    ids, offsets = tokenizer.encode(text), tokenizer.offsets(text)
    parts = [text[a:b] for a, b in pairwise([*offsets, len(text)])]
    assert len(ids) == len(offsets)
    assert "".join(parts) == text
    for token_id, part in zip(ids, parts, strict=True):
        assert part == tokenizer.tokens[token_id] or (token_id == tokenizer.special.unknown and len(part) == 1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The cat, (it) sat!", ["The", " cat", ",", " (", "it", ")", " sat", "!"]),
        ("don't", ["don", "'", "t"]),
        ("a_b ... 3rd", ["a", "_", "b", " .", ".", ".", " 3rd"]),
        ("a  b\n\n\tc \n d", ["a", " ", " b", "\n\n", "\t", "c", " \n", " d"]),
        ("नमस्ते e\u0301t", ["नमस्ते", " e\u0301t"]),
        ("👍🏽", ["👍", "🏽"]),
        ("end  ", ["end", "  "]),
    ],
)
def test_words_keep_their_marks_and_one_space(text, expected):
    """A run of letters, marks and digits, or one sign, with the single space before it; other white space apart."""
    assert words(text) == expected


def test_a_word_that_is_not_held_is_spelt():
    """In the characters of the training text; the neighbours stay whole."""
    tokenizer = ExactWordTokenizer.train(["a the cat the cat tea"])
    assert pieces(tokenizer, "the cat the tea☃") == ["t", "h", "e", " cat", " the", " ", "t", "e", "a", "<unk>"]


def test_words_have_ids_by_falling_frequency_and_characters_follow():
    """Ids below `num_words` are words, as with Keras; of equal ones the first in order of code points."""
    tokenizer = ExactWordTokenizer.train(["b b b b a a c c"], num_words=4)
    assert tokenizer.tokens == ("<pad>", "<unk>", " b", " a", " ", "a", "b", "c", "<start>")
    assert len(ExactWordTokenizer.train(["b b b b a a c c"])) == len(tokenizer) + 1


def test_vocab_size_bounds_all_tokens_together():
    """Characters come first; the most frequent words fill what is left."""
    full = ExactWordTokenizer.train([ALL, ALL])
    for vocab_size in range(len(set(ALL)) + 3, len(full) + 1):
        cut = ExactWordTokenizer.train([ALL, ALL], vocab_size=vocab_size)
        assert len(cut) == vocab_size
        assert cut.decode(cut.encode(ALL)) == ALL


@pytest.mark.parametrize(
    ("bound", "message"),
    [
        ({"num_words": 2}, r"num_words must be at least 3 .*, got 2"),
        ({"vocab_size": 5}, r"vocab_size must be at least 6 \(characters and special tokens\), got 5"),
    ],
)
def test_a_bound_without_room_is_refused(bound, message):
    """With the least that would do, and what was given."""
    with pytest.raises(TokenizerError, match=message):
        ExactWordTokenizer.train(["a b"], **bound)


@pytest.mark.parametrize("text", SCRIPTS.values(), ids=SCRIPTS)
def test_the_library_encodes_and_decodes_alike(text):
    """Whoever reads the file with Hugging Face's library gets our ids, special names in the text apart."""
    text = text.replace("<", "")
    theirs = HuggingFaceTokenizer.from_str(TOKENIZER.to_json())
    ids = TOKENIZER.encode(text + " ☃")
    assert theirs.encode(text + " ☃").ids == ids
    assert theirs.decode(ids) == TOKENIZER.decode(ids) == text + " "
