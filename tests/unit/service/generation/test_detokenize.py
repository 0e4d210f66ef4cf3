"""Stop strings cut a text at the same place however its tokens are chunked, forward and backward."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.tokenizer import CharacterTokenizer, SubwordTokenizer
from service.generation.choice import Stops, TextAssembler
from service.generation.logprobs import Logprobs
from service.scheduling.sequence import Scores
from tests.unit.contract.test_detokenizers import beginnings
from tests.unit.contract.test_subwords import BYTE_IDS, BYTES

TOKENIZER = CharacterTokenizer.train("abcd")


def assemble(text, stops, sizes):
    """Feed a text in chunks; return (visible text, tokens counted, whether it stopped, text deltas)."""
    assembler = TextAssembler(TOKENIZER.detokenizer(), Stops(stops))
    ids, deltas = TOKENIZER.encode(text), []
    while ids and not assembler.stopped:
        size = next(sizes)
        deltas.append(assembler.feed(ids[:size]))
        ids = ids[size:]
    if not assembler.stopped:
        deltas.append(assembler.flush())
    return "".join(deltas), assembler.num_tokens, assembler.stopped, deltas


def every(size):
    """Yield one size forever."""
    while True:
        yield size


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
def test_a_text_ends_before_the_first_complete_stop(text, stops, visible, num_tokens, size):
    """The first stop string to be complete counts; of two that end together, the longer."""
    assert assemble(text, stops, every(size))[:2] == (visible, num_tokens)


@given(
    text=st.text("ab", max_size=30),
    stops=st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
    sizes=st.lists(st.integers(1, 7), min_size=30, max_size=30),
)
def test_chunk_sizes_do_not_change_the_text(text, stops, sizes):
    """Text, token count and stop are those of one token at a time."""
    assert assemble(text, stops, iter(sizes))[:3] == assemble(text, stops, every(1))[:3]


@given(text=st.text("abc", max_size=40), stops=st.lists(st.text("abc", min_size=1, max_size=5), max_size=3))
def test_visible_text_is_a_prefix_without_stop_strings(text, stops):
    """What was streamed cannot be withdrawn, so it must never contain a stop string."""
    visible, _, stopped, _ = assemble(text, stops, every(1))
    assert text.startswith(visible)
    assert not any(stop in visible for stop in stops)
    assert stopped == any(stop in text for stop in stops)


def test_text_that_cannot_be_a_stop_is_not_held_back():
    """Only the possible beginning of a stop string is held back; everything before it is visible at once."""
    assembler = TextAssembler(TOKENIZER.detokenizer(), Stops(("cd",)))
    assert assembler.feed(TOKENIZER.encode("abc")) == "ab"
    assert assembler.feed(TOKENIZER.encode("a")) == "ca"


@pytest.mark.parametrize(
    ("stops", "visible", "stopped"),
    [([], "ab\ufffd", False), (["\ufffd"], "ab", True), (["b\ufffd"], "a", True), (["\ufffdc"], "ab\ufffd", False)],
)
@pytest.mark.parametrize("num_top", [None, 0])
def test_an_incomplete_character_at_the_end_is_shown_or_completes_a_stop(stops, visible, stopped, num_top):
    """What the detokenizer flushes is searched for stop strings, too, and the offset counts what is visible."""
    subwords = SubwordTokenizer.train([], vocab_size=259)
    assembler = TextAssembler(subwords.detokenizer(), Stops(stops), num_top)
    text = assembler.feed(subwords.encode("ab€")[:-1]) + assembler.flush()
    assert (text, assembler.stopped, assembler.length) == (visible, stopped, len(visible))


def joined_tokens(*parts):
    """Return the token of these bytes, in the alphabet of the vocabulary file."""
    return "".join(BYTES.tokens[BYTE_IDS[part]] for part in parts)


# Tokens that begin or end within a character, or extend beyond a stop string.
MERGED = [(0x61, 0x62), (0x82, 0x61), (0x61, 0xE2), (0xAC, 0x62), (0x82, 0xAC)]
SUBWORDS = SubwordTokenizer(
    [*BYTES.tokens, *(joined_tokens(*pair) for pair in MERGED)],
    [(joined_tokens(left), joined_tokens(right)) for left, right in MERGED],
)
DRAWN = [*(BYTE_IDS[byte] for byte in b"aab\xe2\x82\xac\xf0\x9f"), *range(len(BYTES), len(SUBWORDS))]
drawn_ids = st.lists(st.sampled_from(DRAWN), max_size=14)
drawn_stops = st.lists(st.text("ab€\ufffd", min_size=1, max_size=3), max_size=2)
chunk_sizes = st.lists(st.integers(1, 4), min_size=14, max_size=14)
both_directions = pytest.mark.parametrize("backward", [False, True], ids=["forwards", "backwards"])


def made(ids, stops, sizes, *, backward, tokenizer=SUBWORDS):
    """Feed ids in this order; return text, logprobs, tokens counted and whether it stopped.

    Each token has a logprob of its own.
    """
    stops = [stop[::-1] for stop in stops] if backward else stops
    assembler = TextAssembler(tokenizer.detokenizer(backward=backward), Stops(stops), 1, backward=backward)
    text, logprobs, place = "", Logprobs(), 0
    while not assembler.stopped:
        size = next(sizes)
        part, place = ids[place : place + size], place + size
        numbers = np.arange(place - size, place - size + len(part), dtype=np.float32)
        tops = np.full((len(part), 5), 5, np.int32), np.full((len(part), 5), -0.5, np.float32)
        piece, last = assembler.feed(part, Scores(-numbers, *tops)), place >= len(ids)
        if last and not assembler.stopped:
            piece += assembler.flush()
        told = assembler.take_logprobs(last=last or assembler.stopped)
        assert told is not None
        if backward:
            piece, earlier, logprobs = piece[::-1], logprobs, (told := told.mirrored(assembler.length))
            assert all(0 <= offset <= len(piece) for offset in told.text_offset)
            logprobs.extend(earlier, shift=len(piece))
            text = piece + text
        else:
            text += piece
            logprobs.extend(told)
        if last:
            break
    return text, logprobs, assembler.num_tokens, assembler.stopped


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
    """Also for bytes that are no character, and for a token cut by a stop string, which keeps its remaining text."""
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
    assert all(
        logprob == top[token]
        for token, logprob, top in zip(logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs, strict=True)
    )


@both_directions
@settings(deadline=None, max_examples=500)
@given(ids=st.lists(st.sampled_from([*DRAWN, 0, 2]), max_size=14), stops=drawn_stops, sizes=chunk_sizes)
def test_chunk_sizes_do_not_change_logprobs(backward, ids, stops, sizes):
    """Text, tokens, offsets, count and stop are those of one token at a time, with special tokens among them."""
    assert made(ids, stops, iter(sizes), backward=backward) == made(ids, stops, every(1), backward=backward)


@pytest.mark.parametrize(
    ("text", "stops", "visible", "num_tokens"),
    [
        ("abcabd", ["cab"], "d", 4),
        ("dbacba", ["dba"], "cba", 6),
        ("dcba", ["dcb", "c"], "ba", 3),
        ("cba", ["cb", "cba"], "", 3),
        ("cba", ["cb"], "a", 3),
        ("abab", ["d"], "abab", 4),
        ("cba", ["ca"], "cba", 3),
        ("a", ["a"], "", 1),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_a_backward_text_begins_after_the_first_complete_stop(text, stops, visible, num_tokens, size):
    """Stop strings are in reading order; of two that begin together, the longer counts."""
    ids = TOKENIZER.encode(text)[::-1]
    told, logprobs, count, stopped = made(ids, stops, every(size), backward=True, tokenizer=TOKENIZER)
    assert (told, count, stopped) == (visible, num_tokens, len(visible) < len(text))
    assert (logprobs.tokens, logprobs.text_offset) == (list(visible), list(range(len(visible))))


def test_the_end_of_a_stop_string_at_the_left_edge_is_held_back():
    """Everything after it is visible at once. The assembler works on mirrored text, where `dc` is `cd`."""
    assembler = TextAssembler(TOKENIZER.detokenizer(backward=True), Stops(("cd",)), backward=True)
    assert assembler.feed(TOKENIZER.encode("ba")) == "ba"
    assert assembler.feed(TOKENIZER.encode("bc")) == "b"
    assert assembler.feed(TOKENIZER.encode("a")) == "ca"


def test_a_token_after_an_incomplete_character_has_the_next_offset():
    """Bytes that prove to be no character are one U+FFFD with an offset of its own."""
    half, a = BYTE_IDS[0xE2], BYTE_IDS[ord("a")]
    _, logprobs, _, _ = made([a, half, a, a], [], every(1), backward=False)
    assert logprobs.text_offset == [0, 1, 2, 3]
