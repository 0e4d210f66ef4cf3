"""Streaming detokenizers, forward and backward: their text, token offsets, labels and checkpoints."""

import json
from functools import partial
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.tokenizers import (
    CharacterTokenizer,
    ExactWordTokenizer,
    ImportedTokenizer,
    RegexTokenizer,
    SubwordTokenizer,
    WordTokenizer,
)
from tests.unit.contract.imported_files import MADE
from tests.unit.contract.scripts import ALL, texts
from tests.unit.contract.test_subwords import BYTE_IDS, BYTES, any_ids, cuts, odd_bytes

TOKENIZERS = {
    "characters": CharacterTokenizer.train(ALL),
    "words": WordTokenizer.train([ALL]),
    "exact words": ExactWordTokenizer.train([ALL, ALL], num_words=150),
    "regex": RegexTokenizer.train([ALL, ALL], regexes=["fields"], num_words=150),
    "subwords": SubwordTokenizer.train([ALL] * 4, vocab_size=500),
    "bytes": BYTES,
}
DIRECTIONS = ["forwards", "backwards"]
every_kind = pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)


def streamed(tokenizer, ids, places, direction):
    """Return the text deltas of ids in reading order, fed in chunks, and the flush; all in reading order."""
    backward = direction == "backwards"
    ordered = ids[::-1] if backward else ids
    bounds = [0, *sorted(min(place, len(ids)) for place in places), len(ids)]
    detokenizer = tokenizer.detokenizer(backward=backward)
    deltas = [*(detokenizer.feed(iter(ordered[a:b])) for a, b in pairwise(bounds)), detokenizer.flush()]
    return deltas[::-1] if backward else deltas


def beginnings(content):
    """Decode bytes, and return the text and the offset of the character that holds each byte."""
    text, places = "", []
    while content:
        try:
            valid, rest = content.decode(), b""
            wrong = 0
        except UnicodeDecodeError as error:
            valid, rest = content[: error.start].decode(), content[error.end :]
            wrong = error.end - error.start
        for character in valid:
            places += [len(text)] * len(character.encode())
            text += character
        if wrong:
            places += [len(text)] * wrong
            text += "\ufffd"
        content = rest
    return text, places


def tracked(tokenizer, ids, direction):
    """Return the text of ids in reading order, and each token's offset in it, as `track` reports them."""
    if direction == "forwards":
        detokenizer, shown, places = tokenizer.detokenizer(), "", []
        for token_id in [*ids, None]:
            text, told = detokenizer.track(token_id)
            places += [len(shown) + place for place in told]
            shown += text
        return shown, places
    detokenizer, shown, distances = tokenizer.detokenizer(backward=True), "", []
    for token_id in [*reversed(ids), None]:
        text, told = detokenizer.track(token_id)
        distances += [len(shown) + distance for distance in told]
        shown = text + shown
        assert not distances or max(distances) <= len(shown)
    return shown, [len(shown) - distance for distance in reversed(distances)]


@pytest.mark.parametrize("direction", DIRECTIONS)
@settings(max_examples=150)
@given(text=texts, places=cuts)
@every_kind
def test_deltas_joined_are_the_decoded_text(tokenizer, direction, text, places):
    ids = tokenizer.encode(text)
    for cut in (places, range(len(ids))):
        assert "".join(streamed(tokenizer, ids, cut, direction)) == tokenizer.decode(ids)


@pytest.mark.parametrize("direction", DIRECTIONS)
@settings(max_examples=200)
@given(content=odd_bytes, ids=any_ids, places=cuts)
def test_any_bytes_and_tokens_are_decoded_as_they_are_at_once(content, ids, places, direction):
    tokenizer, byte_ids = TOKENIZERS["subwords"], [BYTE_IDS[byte] for byte in content]
    for cut in (places, range(len(byte_ids))):
        assert "".join(streamed(BYTES, byte_ids, cut, direction)) == content.decode("utf-8", "replace")
    assert "".join(streamed(tokenizer, ids, places, direction)) == tokenizer.decode(ids)


@pytest.mark.parametrize(
    ("content", "held"),
    [
        (b"a", b""),
        (b"\xac", b"\xac"),
        (b"\x82\xac", b"\x82\xac"),
        (b"\xe2\x82\xac", b""),
        (b"\x82\xaca", b"\x82\xac"),
        (b"\x91\x8d\x8da", b"\x91\x8d\x8d"),
        (b"\x80\x91\x8d\x8da", b"\x80\x91\x8d"),
        (b"\x80" * 9, b"\x80" * 3),
        (b"\xff\x80", b""),
    ],
)
@pytest.mark.parametrize("at_once", [True, False])
def test_only_bytes_that_an_earlier_byte_may_complete_are_held_back(content, held, at_once):
    ids = [BYTE_IDS[byte] for byte in content]
    flushed, *deltas = streamed(BYTES, ids, [] if at_once else range(len(ids)), "backwards")
    assert "".join(deltas) == content[len(held) :].decode("utf-8", "replace")
    assert flushed == "\ufffd" * len(held)


@pytest.mark.parametrize(("backward", "held"), [(False, b"\xe2\x82"), (True, b"\x82")])
def test_held_bytes_are_flushed_once(backward, held):
    detokenizer = BYTES.detokenizer(backward=backward)
    assert detokenizer.feed([BYTE_IDS[byte] for byte in b"a" + held]) == "a"
    assert (detokenizer.flush(), detokenizer.flush()) == ("\ufffd", "")


@pytest.mark.parametrize(("precedes", "space"), [("", ""), ("a", " "), (" a", ""), ("\na", ""), (", a", " ")], ids=repr)
def test_one_space_separates_words_from_the_suffix(precedes, space):
    tokenizer, expected = WordTokenizer.train(["a b"]), f"b a b{space}"
    a, b = tokenizer.encode("a b")
    assert tokenizer.detokenizer(precedes, backward=True).feed([b, a, b]) == expected
    detokenizer = tokenizer.detokenizer(precedes, backward=True)
    deltas = [detokenizer.feed(ids) for ids in ([b], [0], [a, b])]
    assert "".join(deltas[::-1]) == expected


@pytest.mark.parametrize("direction", DIRECTIONS)
@settings(max_examples=200)
@given(content=odd_bytes, ids=any_ids)
def test_the_offset_of_a_token_is_that_of_the_character_of_its_first_byte(content, ids, direction):
    """Invalid bytes have the offset of their U+FFFD."""
    assert tracked(BYTES, [BYTE_IDS[byte] for byte in content], direction) == beginnings(content)
    tokenizer = TOKENIZERS["subwords"]
    text, by_byte = beginnings(tokenizer.join(ids))
    shown, places = tracked(tokenizer, ids, direction)
    assert (shown, len(places)) == (text, len(ids))
    assert places == sorted(places)
    starts = [len(tokenizer.join(ids[:i])) for i in range(len(ids))]
    for token_id, start, place in zip(ids, starts, places, strict=True):
        if tokenizer.join([token_id]):
            assert place == by_byte[start]


@pytest.mark.parametrize("direction", DIRECTIONS)
@settings(max_examples=200)
@given(text=texts)
@every_kind
def test_a_tokens_label_is_found_at_its_offset(tokenizer, text, direction):
    """Labels of partial characters (`bytes:…`) and of special tokens are not in the text."""
    ids = tokenizer.encode(text)
    shown, places = tracked(tokenizer, ids, direction)
    assert shown == tokenizer.decode(ids)
    detokenizer = tokenizer.detokenizer(backward=direction != "forwards")
    order = range(len(ids)) if direction == "forwards" else reversed(range(len(ids)))
    special = tokenizer.special.ids
    for i in order:
        label = detokenizer.label(ids[i])
        detokenizer.feed([ids[i]])
        if ids[i] in special:
            assert label == tokenizer.tokens[ids[i]]
        elif not label.startswith("bytes:"):
            assert shown[places[i] :].startswith(label)


IMPORTED = {f"imported {name}": ImportedTokenizer(json.loads(library.to_str())) for name, library in MADE.items()}


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("tokenizer", [*TOKENIZERS.values(), *IMPORTED.values()], ids=[*TOKENIZERS, *IMPORTED])
@settings(max_examples=80)
@given(numbers=st.lists(st.integers(0, 9999), max_size=16), places=cuts, beside=st.sampled_from(["", "a", "a ", " 大"]))
def test_a_restored_detokenizer_continues_the_text(tokenizer, direction, numbers, places, beside):
    ids = [number % len(tokenizer.tokens) for number in numbers]
    begin = partial(tokenizer.detokenizer, backward=direction == "backwards")
    whole = begin(beside)
    expected = [whole.feed(ids), whole.flush()]
    bounds = [0, *sorted(min(place, len(ids)) for place in places), len(ids)]
    detokenizer, pieces = begin(beside), []
    for a, b in pairwise(bounds):
        pieces.append(detokenizer.feed(ids[a:b]))
        saved = json.dumps(detokenizer.save())
        detokenizer = begin()
        detokenizer.restore(json.loads(saved))
    pieces.append(detokenizer.flush())
    if direction == "backwards":
        pieces, expected = pieces[::-1], expected[::-1]
    assert "".join(pieces) == "".join(expected)
