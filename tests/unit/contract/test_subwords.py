"""Subwords: every text is encoded without loss, and a stream never shows part of a character."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.tokenizers import SubwordTokenizer
from tests.unit.contract.scripts import ALL, texts

TOKENIZER = SubwordTokenizer.train([ALL] * 4, vocab_size=500)
BYTES = SubwordTokenizer.train([], vocab_size=259)
BYTE_IDS = [next(i for i in range(3, 259) if BYTES.join([i]) == bytes([byte])) for byte in range(256)]

any_ids = st.lists(st.integers(0, len(TOKENIZER) - 1), max_size=40)
PARTS = [b"\xe2\x82\xac", b"\xf0\x9f\x91", b"\xf0\x9f", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90", b"a"]
# Bytes with many beginnings and ends of characters, and invalid ones that resemble them.
_parts = st.sampled_from(PARTS) | st.binary(min_size=1, max_size=1) | texts.map(lambda text: text[:3].encode())
odd_bytes = st.lists(_parts, max_size=12).map(b"".join)
cuts = st.lists(st.integers(0, 60), max_size=6)


@pytest.mark.parametrize("tokenizer", [TOKENIZER, BYTES], ids=["merges", "bytes"])
@settings(max_examples=200)
@given(text=texts)
def test_every_text_is_decoded_exactly(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert not set(ids) & tokenizer.special.ids


@settings(max_examples=200)
@given(text=texts)
@pytest.mark.parametrize("tokenizer", [TOKENIZER, BYTES], ids=["merges", "bytes"])
def test_the_offset_of_a_token_is_that_of_the_character_of_its_first_byte(tokenizer, text):
    ids, offsets = tokenizer.encode(text), tokenizer.offsets(text)
    starts = [len(tokenizer.join(ids[:n])) for n in range(len(ids))]
    begins, place = {}, 0
    for index, character in enumerate(text):
        for byte in range(place, place + len(character.encode())):
            begins[byte] = index
        place += len(character.encode())
    assert offsets == [begins[start] for start in starts]


def test_labels_are_unique_texts_names_or_bytes():
    """`bytes:…` is OpenAI's notation."""
    labels = [TOKENIZER.detokenizer().label(i) for i in range(len(TOKENIZER))]
    assert len(set(labels)) == len(labels) == 500
    assert labels[:3] == ["<pad>", "<unk>", "<start>"]
    for token_id, label in enumerate(labels[3:], 3):
        content = TOKENIZER.join([token_id])
        if "\ufffd" in content.decode("utf-8", "replace"):
            assert re.fullmatch(r"bytes:([ -~]|\\x[0-9a-f]{2})+", label)
        else:
            assert label == content.decode()
    assert BYTES.label(BYTE_IDS[0xE2]) == r"bytes:\xe2"


def test_a_label_does_not_depend_on_the_previous_tokens():
    detokenizer = BYTES.detokenizer()
    first, second, third = BYTES.encode("€")
    labels = [detokenizer.label(third)]
    detokenizer.feed([first, second])
    assert [*labels, detokenizer.label(third)] == [r"bytes:\xac"] * 2
    assert detokenizer.feed([third]) == "€"


def test_a_token_lies_within_one_word_and_its_leading_space():
    """The first word of a text has no such space."""
    tokenizer = SubwordTokenizer.train(["don't stop, 12 the 12 the\n\n  x"] * 9)
    tokens = [tokenizer.label(i) for i in tokenizer.encode("the 12 don't stop, the\n\n  x")]
    assert tokens == ["the", " 12", " ", "don't", " stop", ",", " the", "\n\n", " ", " x"]


def test_combining_marks_are_in_the_token_of_their_letter():
    """A frequent word of Devanagari is one token."""
    tokenizer = SubwordTokenizer.train(["नमस्ते " * 9], vocab_size=400)
    assert [tokenizer.label(i) for i in tokenizer.encode(" नमस्ते")] == [" नमस्ते"]


def test_training_splits_words_of_a_text_without_white_space():
    """Each merge scans whole words, and here the text would be one word."""
    tokenizer = SubwordTokenizer.train(["a" * 100_000], vocab_size=400)
    assert max(len(tokenizer.join([i])) for i in range(len(tokenizer))) == 128
    assert tokenizer.decode(tokenizer.encode("a" * 1000)) == "a" * 1000


def test_tokenizers_with_another_order_of_merges_differ():
    """The tokens alone do not determine the encoding."""
    special = ["<pad>", "<unk>", "<start>"]
    tokens = [*special, *BYTES.tokens[3:], "ab", "bc"]
    one, other = (SubwordTokenizer(tokens, merges) for merges in ([("a", "b"), ("b", "c")], [("b", "c"), ("a", "b")]))
    assert one.encode("abc") != other.encode("abc")
    assert one != other
