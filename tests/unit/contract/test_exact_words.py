"""Exact words: decoding is lossless, and words outside the vocabulary are spelled in characters."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.tokenizers import ExactWordTokenizer
from tests.unit.contract.scripts import ALL, texts


def pieces(tokenizer, text):
    return [tokenizer.tokens[i] for i in tokenizer.encode(text)]


def words(text):
    """Return the tokens of a text whose words are all in the vocabulary."""
    return pieces(ExactWordTokenizer.train([text, text]), text)


@settings(max_examples=200)
@given(learned=texts, num_words=st.one_of(st.none(), st.integers(3, 30)))
def test_the_training_text_is_decoded_exactly(learned, num_words):
    tokenizer = ExactWordTokenizer.train([learned], num_words=num_words)
    ids = tokenizer.encode(learned)
    assert tokenizer.special.unknown not in ids
    assert tokenizer.decode(ids) == learned


@settings(max_examples=200)
@given(learned=texts, text=texts)
def test_each_token_is_found_at_its_offset(learned, text):
    tokenizer = ExactWordTokenizer.train([learned, learned])
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
def test_a_word_has_its_combining_marks_and_one_leading_space(text, expected):
    """A word is a run of letters, marks and digits, or one symbol; other white space has its own tokens."""
    assert words(text) == expected


def test_a_word_outside_the_vocabulary_is_spelt_in_characters():
    tokenizer = ExactWordTokenizer.train(["a the cat the cat tea"])
    assert pieces(tokenizer, "the cat the tea☃") == ["t", "h", "e", " cat", " the", " ", "t", "e", "a", "<unk>"]


def test_ids_of_words_descend_by_frequency_and_precede_characters():
    """Ids below `num_words` are words, as in Keras; ties are in the order of code points."""
    tokenizer = ExactWordTokenizer.train(["b b b b a a c c"], num_words=4)
    assert tokenizer.tokens == ("<pad>", "<unk>", " b", " a", " ", "a", "b", "c", "<start>")
    assert len(ExactWordTokenizer.train(["b b b b a a c c"])) == len(tokenizer) + 1


def test_vocab_size_limits_words_and_characters_together():
    full = ExactWordTokenizer.train([ALL, ALL])
    for vocab_size in range(len(set(ALL)) + 3, len(full) + 1):
        cut = ExactWordTokenizer.train([ALL, ALL], vocab_size=vocab_size)
        assert len(cut) == vocab_size
        assert cut.decode(cut.encode(ALL)) == ALL
