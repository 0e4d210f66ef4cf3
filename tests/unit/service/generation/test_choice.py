"""Stop strings cut a text at the same place however its tokens are grouped into calls, in both directions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.tokenizers import CharacterTokenizer, SubwordTokenizer
from service.generation.choice import Choice, StopFinder
from service.generation.logprobs import Logprobs, expected_next
from service.scheduling.sequence import Result, Scores
from tests.unit.contract.test_detokenizers import beginnings
from tests.unit.contract.test_subwords import BYTE_IDS, BYTES

TOKENIZER = CharacterTokenizer.train("abcd")


def every(size):
    while True:
        yield size


@pytest.mark.parametrize(
    ("stops", "visible", "stopped"),
    [([], "ab\ufffd", False), (["\ufffd"], "ab", True), (["b\ufffd"], "a", True), (["\ufffdc"], "ab\ufffd", False)],
)
@pytest.mark.parametrize("num_top", [None, 0])
def test_an_incomplete_character_at_the_end_is_shown_or_completes_a_stop(stops, visible, stopped, num_top):
    """What the detokenizer flushes is searched for stop strings, too, and the offset counts what is visible."""
    subwords = SubwordTokenizer.train([], vocab_size=259)
    choice = Choice((0, 0), subwords.detokenizer(), stops, backward=False, num_top=num_top)
    choice.take(Result((0, 0), sampled_ids=subwords.encode("ab€")[:-1], finish_reason="length"))
    assert (choice.take_delta(0).text, choice.is_stopped) == (visible, stopped)


# Tokens that begin or end within a character, or extend beyond a stop string, in the alphabet of the vocabulary file.
MERGED = [(0x61, 0x62), (0x82, 0x61), (0x61, 0xE2), (0xAC, 0x62), (0x82, 0xAC)]
_MERGES = [tuple(BYTES.tokens[BYTE_IDS[byte]] for byte in pair) for pair in MERGED]
SUBWORDS = SubwordTokenizer([*BYTES.tokens, *map("".join, _MERGES)], _MERGES)
DRAWN = [*(BYTE_IDS[byte] for byte in b"aab\xe2\x82\xac\xf0\x9f"), *range(len(BYTES), len(SUBWORDS))]
drawn_ids = st.lists(st.sampled_from(DRAWN), max_size=14)
drawn_stops = st.lists(st.text("ab€\ufffd", min_size=1, max_size=3), max_size=2)
chunk_sizes = st.lists(st.integers(1, 4), min_size=14, max_size=14)
both_directions = pytest.mark.parametrize("backward", [False, True], ids=["forwards", "backwards"])


def made(ids, stops, sizes, *, backward, num_top=1, tokenizer=SUBWORDS):
    """Feed ids in this order; return text, logprobs, tokens counted and whether it stopped.

    Each token has a logprob of its own.
    """
    stops = [stop[::-1] if backward else stop for stop in stops]
    detokenizer = tokenizer.detokenizer(backward=backward)
    choice = Choice((0, 0), detokenizer, stops, backward=backward, num_top=num_top)
    place, deltas = 0, []
    while choice.finish_reason is None:
        size = next(sizes)
        part, place = ids[place : place + size], place + size
        numbers = np.arange(place - size, place - size + len(part), dtype=np.float32)
        tops = np.full((len(part), 5), 5, np.int32), np.full((len(part), 5), -0.5, np.float32)
        scores = None if num_top is None else Scores(-numbers, *tops)
        reason = "length" if place >= len(ids) else None
        choice.take(Result((0, 0), sampled_ids=part, scores=scores, finish_reason=reason))
        deltas.append(choice.take_delta(0))
    logprobs, text = Logprobs(), ""
    for delta in deltas[::-1] if backward else deltas:
        told = delta.logprobs or Logprobs()
        assert not backward or all(0 <= offset <= len(delta.text) for offset in told.text_offset)
        logprobs.extend(told, shift=len(text) if backward else 0)
        text += delta.text
    return text, logprobs, choice.num_tokens, choice.is_stopped


def cut_by(text, stops, *, backward):
    """Return the beginning and the end of what the first complete stop string leaves of a text."""
    for num_generated in range(1, len(text) + 1):
        drawn = text[-num_generated:] if backward else text[:num_generated]
        found = [len(stop) for stop in stops if (drawn.startswith(stop) if backward else drawn.endswith(stop))]
        if found:
            left = num_generated - max(found)
            return (len(text) - left, len(text)) if backward else (0, left)
    return 0, len(text)


@both_directions
@settings(deadline=None, max_examples=500)
@given(ids=drawn_ids, stops=drawn_stops)
def test_text_and_offsets_are_those_of_decoding_all_tokens_at_once(backward, ids, stops):
    text, logprobs, _, stopped = made(ids, stops, every(1), backward=backward)
    content = [SUBWORDS.join([token_id]) for token_id in (reversed(ids) if backward else ids)]
    whole, by_byte = beginnings(b"".join(content))
    begin, end = cut_by(whole, stops, backward=backward)
    assert (text, stopped) == (whole[begin:end], (begin, end) != (0, len(whole)))
    starts = [by_byte[len(b"".join(content[:i]))] for i in range(len(content))]
    ends = [*starts[1:], len(whole)]
    told = [i for i in range(len(content)) if starts[i] < end and (starts[i] >= begin or ends[i] > begin)]
    assert logprobs.text_offset == [max(0, starts[i] - begin) for i in told]
    assert logprobs.token_logprobs == [-float(len(ids) - 1 - i if backward else i) for i in told]
    tops = zip(logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs, strict=True)
    assert all(logprob == top[token] for token, logprob, top in tops)


@both_directions
@pytest.mark.parametrize("num_top", [None, 1])
@settings(deadline=None, max_examples=300)
@given(ids=st.lists(st.sampled_from([*DRAWN, 0, 2]), max_size=14), stops=drawn_stops, sizes=chunk_sizes)
def test_the_size_of_calls_changes_neither_text_nor_logprobs(backward, num_top, ids, stops, sizes):
    how = {"backward": backward, "num_top": num_top}
    assert made(ids, stops, iter(sizes), **how) == made(ids, stops, every(1), **how)


@pytest.mark.parametrize(
    ("text", "stops", "visible", "num_tokens"),
    [
        ("abcabd", ["abd"], "abc", 6),
        ("aaab", ["aab"], "a", 4),
        ("abcd", ["bcd", "c"], "ab", 3),
        ("abcd", ["abcd", "bc"], "a", 3),
        ("abc", ["bc", "c"], "a", 3),
        ("abab", ["d"], "abab", 4),
        ("abca", ["ad"], "abca", 4),
        ("a", ["a"], "", 1),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 3, 100])
@both_directions
def test_a_text_ends_before_the_first_complete_stop(backward, text, stops, visible, num_tokens, size):
    if backward:
        text, stops, visible = text[::-1], [stop[::-1] for stop in stops], visible[::-1]
    ids = TOKENIZER.encode(text)
    made_of = made(ids[::-1] if backward else ids, stops, every(size), backward=backward, tokenizer=TOKENIZER)
    assert (made_of[0], *made_of[2:]) == (visible, num_tokens, len(visible) < len(text))
    assert (made_of[1].tokens, made_of[1].text_offset) == (list(visible), list(range(len(visible))))


def test_only_the_possible_beginning_of_a_stop_string_is_held_back():
    choice, texts = Choice((0, 0), TOKENIZER.detokenizer(), (["cd"]), backward=False), []
    for text in ("abc", "a"):
        choice.take(Result((0, 0), sampled_ids=TOKENIZER.encode(text)))
        texts.append(choice.take_delta(0).text)
    assert texts == ["ab", "ca"]


TEXT = st.text("ab", max_size=40)
STOPS = st.lists(st.text("ab", min_size=1, max_size=6), min_size=1, max_size=4)


@given(text=TEXT, stops=STOPS, data=st.data())
def test_a_match_is_what_searching_the_whole_text_finds(text, stops, data):
    finder, place = StopFinder(stops), 0
    found = None
    while place < len(text) and found is None:
        size = data.draw(st.integers(1, 7))
        found = finder.feed(text[place : place + size])
        place += size if found is None else 0
    ends = [i for i in range(1, len(text) + 1) if any(text[:i].endswith(stop) for stop in stops)]
    if ends:
        length = max(len(stop) for stop in stops if text[: ends[0]].endswith(stop))
        assert found == (ends[0] - place, length)
    else:
        assert found is None
        pending = [n for stop in stops for n in range(len(stop)) if n and text.endswith(stop[:n])]
        assert finder.num_pending == max(pending, default=0)


def test_of_tokens_with_the_same_text_the_most_probable_is_listed():
    """At the beginning of a text, "▁a" and "a" both read "a"."""
    scores = Scores(np.float32([-1]), np.int32([[5, 6, 7]]), np.float32([[-0.5, -1, -2]]))
    expected = expected_next(scores, 3, {5: "a", 6: "b", 7: "a"}.get)
    assert list(expected.items()) == [("a", -0.5), ("b", -1.0)]
