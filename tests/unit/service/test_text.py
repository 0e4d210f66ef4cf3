"""Stop strings end a text at the same place however its tokens come."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.tokenizer import CharacterTokenizer, SubwordTokenizer
from service.stops import Stops
from service.text import TextAssembler

TOKENIZER = CharacterTokenizer.train("abcd")


def assemble(text, stops, sizes):
    """Feed a text in pieces and return (visible text, tokens counted, whether it stopped, pieces)."""
    assembler = TextAssembler(TOKENIZER.detokenizer(), Stops(stops))
    ids, pieces = TOKENIZER.encode(text), []
    while ids and not assembler.stopped:
        size = next(sizes)
        pieces.append(assembler.feed(ids[:size]))
        ids = ids[size:]
    if not assembler.stopped:
        pieces.append(assembler.flush())
    return "".join(pieces), assembler.num_tokens, assembler.stopped, pieces


def every(size):
    """Yield one size for ever."""
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
    """The first stop to be complete counts; of two that end together, the longer."""
    assert assemble(text, stops, every(size))[:2] == (visible, num_tokens)


@given(
    text=st.text("ab", max_size=30),
    stops=st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
    sizes=st.lists(st.integers(1, 7), min_size=30, max_size=30),
)
def test_chunks_do_not_matter(text, stops, sizes):
    """Any cutting into chunks gives the text, the count and the ending of token by token."""
    assert assemble(text, stops, iter(sizes))[:3] == assemble(text, stops, every(1))[:3]


@given(text=st.text("abc", max_size=40), stops=st.lists(st.text("abc", min_size=1, max_size=5), max_size=3))
def test_what_was_shown_is_never_taken_back(text, stops):
    """No stop string, nor any part of the one that ended the text, is in what was shown before."""
    visible, _, stopped, _ = assemble(text, stops, every(1))
    assert text.startswith(visible)
    assert not any(stop in visible for stop in stops)
    assert stopped == any(stop in text for stop in stops)


def test_text_that_cannot_be_a_stop_is_not_held_back():
    """Only the beginning of a stop string waits; everything before it is shown at once."""
    assembler = TextAssembler(TOKENIZER.detokenizer(), Stops(("cd",)))
    assert assembler.feed(TOKENIZER.encode("abc")) == "ab"
    assert assembler.feed(TOKENIZER.encode("a")) == "ca"


@pytest.mark.parametrize(
    ("stops", "visible", "stopped"),
    [([], "ab\ufffd", False), (["\ufffd"], "ab", True), (["b\ufffd"], "a", True), (["\ufffdc"], "ab\ufffd", False)],
)
@pytest.mark.parametrize("num_top", [None, 0])
def test_half_a_character_at_the_end_is_shown_or_completes_a_stop(stops, visible, stopped, num_top):
    """What the detokenizer held goes through the stops, and the offset counts what is shown."""
    subwords = SubwordTokenizer.train([], vocab_size=259)
    assembler = TextAssembler(subwords.detokenizer(), Stops(stops), num_top)
    text = assembler.feed(subwords.encode("ab€")[:-1]) + assembler.flush()
    assert (text, assembler.stopped, assembler.offset) == (visible, stopped, len(visible))
