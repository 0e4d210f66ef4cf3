"""Memorization finds runs of words that occur verbatim in the training text, and no others."""

import random
import re
import signal

import pytest

from contract.tokenizers import KERAS_RULES
from export.corpora import memorization
from export.corpora.corpus import Chunk
from export.corpora.memorization import MIN_SPANS, SPAN_WORDS, Memorization, find_memorized_spans
from export.interrupts import deferred_interrupts

WORDS = [f"w{i}" for i in range(200)]
# The first and last word of a text are ignored, so this one has 191 runs.
WRITTEN = " ".join(WORDS)
NUM_SPANS = len(WORDS) - 2 - SPAN_WORDS + 1


def joined(start, stop, between=" "):
    return between.join(WORDS[start:stop])


def chunks(*documents, length=10**6):
    """Split documents into chunks of whole words."""
    for document in documents:
        parts = re.findall(rf"(?s).{{1,{length}}}\S*", document)
        yield from (Chunk(part, is_last=i == len(parts)) for i, part in enumerate(parts, start=1))


def by_hand(written, documents, words=str.split):
    """Compute the expected result by brute force, word by word."""
    texts = [words(text)[1:-1] for text in written]
    spans = [tuple(text[i : i + SPAN_WORDS]) for text in texts for i in range(len(text) - SPAN_WORDS + 1)]
    runs = {tuple(cut[i : i + SPAN_WORDS]) for cut in map(words, documents) for i in range(len(cut) - SPAN_WORDS + 1)}
    return Memorization(len(spans), sum(span in runs for span in spans))


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (WRITTEN, NUM_SPANS),
        ("x " + joined(50, 60) + " y", 3),
        (joined(50, 60, "\n\n"), 3),
        (joined(50, 57) + " x " + joined(57, 64), 0),
        (joined(50, 60).upper(), 0),
        (joined(0, 8), 0),
        ("", 0),
    ],
    ids=["all", "ten words", "other white space", "seven words", "another case", "with the cut word", "nothing"],
)
def test_runs_of_eight_words_are_found_anywhere_in_the_text(document, expected):
    assert find_memorized_spans([WRITTEN], chunks(document)) == Memorization(NUM_SPANS, expected)


def test_a_run_crosses_no_document_or_text_boundary():
    """Two halves in two documents are no copy, nor are two generated texts one."""
    assert find_memorized_spans([WRITTEN], chunks(joined(50, 54), joined(54, 58))).num_copied == 0
    halves, num_spans = [joined(0, 100), joined(100, 200)], 2 * (98 - SPAN_WORDS + 1)
    assert find_memorized_spans(halves, chunks(WRITTEN)) == Memorization(num_spans, num_spans)


def test_words_are_compared_after_the_tokenizers_normalization():
    """A model with Keras's word rules generates lower case without punctuation; the training text has both."""
    document = ", ".join(WORDS[50:60]).upper() + "!"
    assert find_memorized_spans([WRITTEN], chunks(document), KERAS_RULES.words).num_copied == 3


@pytest.mark.parametrize("size", [1, 2, 7, 100])
def test_chunking_a_document_does_not_change_the_overlap(size):
    """A long document is scanned in chunks, and runs continue from one chunk into the next."""
    rng = random.Random(size)
    written = [" ".join(rng.choices("ab", k=120)) for _ in range(3)]
    documents = [rng.choice([" ", "\n", "  "]).join(rng.choices("abc", k=150)) for _ in range(4)]
    expected = by_hand(written, documents)
    assert 0 < expected.num_copied < expected.num_spans
    assert find_memorized_spans(written, chunks(*documents, length=size)) == expected


def test_a_hash_collision_is_not_a_copy(monkeypatch):
    """Hash matches are verified word by word."""
    monkeypatch.setattr(memorization, "polynomials", lambda ids, _starts, stops: ids[stops - 1])
    written = [" ".join(f"{i}a b" for i in range(100))]
    document = " ".join(["b x"] * 100) + " " + " ".join(f"b b b b b b b {i}a" for i in range(100))
    assert find_memorized_spans(written, chunks(document)).num_copied == 0


def test_too_few_runs_have_no_share_of_copies():
    """The training text is not even read for them."""

    def unread():
        raise AssertionError("read")
        yield

    few = " ".join(WORDS[: MIN_SPANS + SPAN_WORDS])
    assert find_memorized_spans([few], unread()) == Memorization(MIN_SPANS - 1, 0)
    assert find_memorized_spans([few], unread()).share is None
    assert Memorization(MIN_SPANS, 10).share == pytest.approx(0.2)


def test_the_search_can_be_interrupted_between_two_chunks():
    with deferred_interrupts():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            find_memorized_spans([WRITTEN], chunks(WRITTEN, length=10))
