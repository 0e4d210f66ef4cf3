"""Losses of models of different units are compared by what a character costs."""

import math

import numpy as np
import pytest

from contract.tokenizer import CharacterTokenizer, ExactWordTokenizer, SubwordTokenizer, WordTokenizer
from export.corpora.bits_per_character import bits_per_character, characters_of_loss, count_characters

TEXT = "Größe, 大きさ and size: it's 1859.\n\n" * 3
EXACT = [CharacterTokenizer.train(TEXT), ExactWordTokenizer.train([TEXT]), SubwordTokenizer.train([TEXT])]


@pytest.mark.parametrize("tokenizer", EXACT, ids=lambda tokenizer: tokenizer.unit)
def test_the_tokens_of_a_text_stand_for_its_characters(tokenizer):
    """Also where a character is of several tokens, and in any order."""
    ids = np.array(tokenizer.encode(TEXT), np.int32)
    assert count_characters(tokenizer, ids) == len(TEXT)
    assert count_characters(tokenizer, ids[::-1]) == len(TEXT)


def test_a_character_in_two_tokens_is_counted_once():
    """Bytes that go on with a character are none of their own."""
    tokenizer = SubwordTokenizer.train(["abc"])
    ids = tokenizer.encode("大ö")
    assert len(ids) == 5
    assert count_characters(tokenizer, np.array(ids)) == 2


@pytest.mark.parametrize("tokenizer", EXACT[:2], ids=lambda tokenizer: tokenizer.unit)
def test_what_is_unknown_is_not_counted(tokenizer):
    """It has no part in the loss either."""
    assert count_characters(tokenizer, np.array(tokenizer.encode("size x size"))) == len("size  size")


def test_a_word_stands_for_itself_and_a_space():
    """What Keras's rules drop is not predicted, and is not counted."""
    tokenizer = WordTokenizer.train(["The cat, the dog"])
    ids = np.array(tokenizer.encode("The DOG!!! saw --- the cat"))
    assert count_characters(tokenizer, ids) == len("the dog the cat ")


def test_an_end_token_is_one_character():
    """As the line end is that stands there in a running text, so both have the same figure."""
    tokenizer = CharacterTokenizer.train("abc", end_token=True)
    assert count_characters(tokenizer, np.array([*tokenizer.encode("abc"), tokenizer.special.end])) == 4


def test_bits_are_those_of_all_tokens_over_all_characters():
    """2 tokens of ln 16 nats are 8 bits; over 4 characters 2 each."""
    assert bits_per_character(math.log(16), 2, 4) == pytest.approx(2)
    assert characters_of_loss(math.log(16), 2, 2.0) == 4


@pytest.mark.parametrize(("loss", "characters"), [(None, 0), (1.0, None)])
def test_what_is_not_known_has_no_bits(loss, characters):
    """Nothing held out, or a run of an earlier release."""
    assert bits_per_character(loss, 10, characters) is None
    assert characters_of_loss(1.0, 10, None) is None
