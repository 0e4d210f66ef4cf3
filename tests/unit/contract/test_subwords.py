"""Subwords: every text is encoded without loss, and a stream never shows part of a character."""

import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as HuggingFaceTokenizer

from contract.errors import TokenizerError
from contract.tokenizer import SubwordTokenizer
from tests.unit.contract.scripts import ALL, SCRIPTS, texts

TOKENIZER = SubwordTokenizer.train([ALL] * 4, vocab_size=500)
LIBRARY = HuggingFaceTokenizer.from_str(TOKENIZER.to_json())
BYTES = SubwordTokenizer.train([], vocab_size=259)
BYTE_IDS = [next(i for i in range(3, 259) if BYTES.join([i]) == bytes([byte])) for byte in range(256)]

any_ids = st.lists(st.integers(0, len(TOKENIZER) - 1), max_size=40)
# Bytes with many beginnings and ends of characters, and invalid ones that resemble them.
odd_bytes = st.lists(
    st.one_of(
        st.integers(0, 255).map(lambda byte: bytes([byte])),
        st.sampled_from(
            [b"\xe2\x82\xac", b"\xf0\x9f\x91", b"\xf0\x9f", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90", b"a"]
        ),
        texts.map(lambda text: text[:3].encode()),
    ),
    max_size=12,
).map(b"".join)
cuts = st.lists(st.integers(0, 60), max_size=6)


def stream(tokenizer, ids, places):
    """Return the text deltas of ids that are fed in chunks, and the flush."""
    bounds = [0, *sorted(min(place, len(ids)) for place in places), len(ids)]
    detokenizer = tokenizer.detokenizer()
    return [*(detokenizer.feed(ids[a:b]) for a, b in pairwise(bounds)), detokenizer.flush()]


@pytest.mark.parametrize("text", SCRIPTS.values(), ids=SCRIPTS)
def test_a_vocabulary_trained_on_english_encodes_every_script(text):
    """Its alphabet is all bytes: nothing is unknown."""
    tokenizer = SubwordTokenizer.train(["the cat sat on the mat " * 9], vocab_size=300)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert not set(ids) & set(vars(tokenizer.special).values())


@settings(deadline=None, max_examples=500)
@given(text=texts)
def test_every_text_is_decoded_exactly(text):
    """With merges in every script; NUL and lone combining marks too."""
    ids = TOKENIZER.encode(text)
    assert TOKENIZER.decode(ids) == text
    assert not set(ids) & set(vars(TOKENIZER.special).values())


@settings(deadline=None, max_examples=300)
@given(text=texts)
def test_hugging_faces_library_encodes_alike(text):
    """It reads the same file; only names of special tokens in the text differ."""
    text = text.replace("<", "")
    assert LIBRARY.encode(text).ids == TOKENIZER.encode(text)


@settings(deadline=None, max_examples=500)
@given(ids=any_ids)
def test_hugging_faces_library_decodes_any_ids_alike(ids):
    """Invalid UTF-8 becomes the same U+FFFD."""
    assert LIBRARY.decode(ids) == TOKENIZER.decode(ids)


@settings(deadline=None, max_examples=500)
@given(content=odd_bytes, places=cuts)
def test_any_bytes_decode_alike_however_they_are_chunked(content, places):
    """Byte by byte, in chunks or at once: the same U+FFFD, and never part of a character."""
    ids = [BYTE_IDS[byte] for byte in content]
    expected = content.decode("utf-8", "replace")
    assert BYTES.decode(ids) == expected
    assert "".join(stream(BYTES, ids, places)) == expected
    assert "".join(stream(BYTES, ids, range(len(ids)))) == expected


@settings(deadline=None, max_examples=500)
@given(ids=any_ids, places=cuts)
def test_streamed_deltas_joined_are_the_decoded_text(ids, places):
    """For any ids, special tokens among them, in any chunks."""
    assert "".join(stream(TOKENIZER, ids, places)) == TOKENIZER.decode(ids)
    assert "".join(stream(TOKENIZER, ids, range(len(ids)))) == TOKENIZER.decode(ids)


@settings(deadline=None)
@given(text=texts)
def test_the_streamed_text_is_always_a_prefix_of_the_text(text):
    """A character whose bytes arrive one by one is held back until the last; the flush is empty."""
    pieces = stream(BYTES, BYTES.encode(text), range(400))
    shown = ""
    for piece in pieces:
        shown += piece
        assert text.startswith(shown)
    assert shown == text
    assert pieces[-1] == ""


def test_an_incomplete_character_at_the_end_is_flushed_as_one_u_fffd():
    """A second flush returns nothing."""
    detokenizer = BYTES.detokenizer()
    ids = BYTES.encode("a€")
    assert detokenizer.feed(ids[:3]) == "a"
    assert (detokenizer.flush(), detokenizer.flush()) == ("\ufffd", "")


@settings(deadline=None, max_examples=300)
@given(text=texts)
@pytest.mark.parametrize("tokenizer", [TOKENIZER, BYTES], ids=["merges", "bytes"])
def test_the_offset_of_a_token_is_that_of_the_character_of_its_first_byte(tokenizer, text):
    """Tokens within one character share its offset."""
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
    assert len(set(labels)) == len(labels)
    assert labels[:3] == ["<pad>", "<unk>", "<start>"]
    for token_id, label in enumerate(labels[3:], 3):
        content = TOKENIZER.join([token_id])
        if "\ufffd" in content.decode("utf-8", "replace"):
            assert re.fullmatch(r"bytes:([ -~]|\\x[0-9a-f]{2})+", label)
        else:
            assert label == content.decode()
    assert BYTES.label(BYTE_IDS[0xE2]) == r"bytes:\xe2"


def test_a_label_does_not_depend_on_the_previous_tokens():
    """Even if their bytes would complete the character."""
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


def test_a_vocab_size_below_the_number_of_bytes_is_rejected():
    """The message has the minimum and the value."""
    with pytest.raises(TokenizerError, match=r"vocab_size must be at least 259 \(bytes and special tokens\), got 258"):
        SubwordTokenizer.train(["a"], vocab_size=258)


def test_the_vocabulary_has_the_requested_size():
    """If the text has enough pairs."""
    assert len(TOKENIZER) == 500


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
