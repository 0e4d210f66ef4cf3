"""Bits per character: a loss that is comparable between models of different units."""

import math

import numpy as np
import pytest

from contract.tokenizers import CharacterTokenizer, ExactWordTokenizer, SubwordTokenizer, WordTokenizer
from export.corpora.bits_per_character import bits_per_character, count_characters

TEXT = "Größe, 大きさ and size: it's 1859.\n\n" * 3
EXACT = [CharacterTokenizer.train(TEXT), ExactWordTokenizer.train([TEXT]), SubwordTokenizer.train([TEXT])]


@pytest.mark.parametrize("tokenizer", EXACT, ids=lambda tokenizer: tokenizer.unit)
def test_tokens_count_as_many_characters_as_their_text(tokenizer):
    ids = np.array(tokenizer.encode(TEXT), np.int32)
    assert count_characters(tokenizer, ids) == len(TEXT)
    assert count_characters(tokenizer, ids[::-1]) == len(TEXT)


def test_a_character_of_several_byte_tokens_is_counted_once():
    tokenizer = SubwordTokenizer.train(["abc"])
    ids = tokenizer.encode("大ö")
    assert len(ids) == 5
    assert count_characters(tokenizer, np.array(ids)) == 2


@pytest.mark.parametrize("tokenizer", EXACT[:2], ids=lambda tokenizer: tokenizer.unit)
def test_unknown_tokens_are_not_counted(tokenizer):
    assert count_characters(tokenizer, np.array(tokenizer.encode("size x size"))) == len("size  size")


def test_a_word_counts_with_one_space():
    """Characters that Keras's rules drop are not predicted, and so they are not counted."""
    tokenizer = WordTokenizer.train(["The cat, the dog"])
    ids = np.array(tokenizer.encode("The DOG!!! saw --- the cat"))
    assert count_characters(tokenizer, ids) == len("the dog the cat ")


def test_an_end_token_counts_as_one_character():
    tokenizer = CharacterTokenizer.train("abc", end_token=True)
    assert count_characters(tokenizer, np.array([*tokenizer.encode("abc"), tokenizer.special.end])) == 4


def test_bits_per_character_divides_all_bits_by_all_characters():
    """Two tokens of ln 16 nats are 8 bits; over 4 characters that is 2 bits each."""
    assert bits_per_character(math.log(16), 2, 4) == pytest.approx(2)
    assert bits_per_character(None, 0, 0) is None
