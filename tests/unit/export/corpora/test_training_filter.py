"""The training filter has every document or span of a corpus, as a model generates it, and no others."""

import itertools
import math
import random
import signal
import tracemalloc
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.tokenizers import CharacterTokenizer, ExactWordTokenizer, SubwordTokenizer, WordTokenizer, huggingface
from contract.training_filter import DOCUMENTS, SPANS
from export.corpora import corpus as corpus_module
from export.corpora import training_filter as module
from export.corpora.encoder import encode_corpus
from export.corpora.memorization import SPAN_WORDS
from export.corpora.training_filter import build_training_filter
from export.interrupts import deferred_interrupts
from tests.unit.export.texts import corpus_of

# A vocabulary of Keras's that was imported, with which a model is trained further.
LOWER_CASE = "lower case"
KINDS = [CharacterTokenizer, WordTokenizer, ExactWordTokenizer, SubwordTokenizer]
WORDS = [f"{first}{second}" for first in ("Man", "ox", "Über", "hill", "la") for second in ("", "s", "kind", "'s")]
SHORT = st.lists(st.text("aAb. é語😀\n", min_size=1, max_size=30).filter(str.strip), min_size=1, max_size=12)


@pytest.fixture
def small_blocks():
    """Shrink blocks and chunks, so that a few words have many of them."""
    with (
        patch.object(corpus_module, "BLOCK_BYTES", 11),
        patch.object(huggingface, "CHUNK_CHARACTERS", 3),
        patch.object(module, "BLOCK_BYTES", 5),
        patch.object(module, "_BLOCK_TOKENS", 7),
    ):
        yield


def trained(kind, documents, *, ends):
    if kind == LOWER_CASE:
        return CharacterTokenizer(trained(CharacterTokenizer, map(str.lower, documents), ends=ends).tokens, lower=True)
    limit = {"vocab_size": 280} if kind is SubwordTokenizer else {}
    return kind.train([*documents, "ab"], end_token=ends, **limit)


def sentences(seed, num_words):
    return " ".join(random.Random(seed).choices(WORDS, k=num_words))


def generated(tokenizer, document):
    """Return the text that a model generates to reproduce a document."""
    return tokenizer.decode(tokenizer.encode(document))


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("kind", [*KINDS, LOWER_CASE])
@settings(deadline=None)
@given(documents=SHORT)
def test_every_document_is_found_as_the_model_generates_it(kind, documents):
    tokenizer = trained(kind, documents, ends=True)
    found = build_training_filter(corpus_of("c", documents, ends=True), tokenizer)
    assert (found.kind, found.num_entries) == (DOCUMENTS, len(documents))
    texts = [generated(tokenizer, document) for document in documents]
    assert all(found.contains([], text) for text in texts if text)
    joined = "".join(texts)
    assert joined in texts or not found.contains([], joined)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("ends", [False, True], ids=["running", "documents"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_span_is_found_in_the_order_of_generation(kind, ends, direction):
    """A span has no end token, so it crosses no boundary of documents."""
    documents = [sentences(seed, 60 + 20 * seed) for seed in range(3 if ends else 1)]
    tokenizer, corpus = trained(kind, documents, ends=ends), corpus_of("c", documents, ends=ends)
    found = build_training_filter(corpus, tokenizer, direction)
    ids = encode_corpus(corpus, tokenizer, direction).tolist()
    expected = math.ceil(50 * (len(ids) - 3 * ends) / corpus.num_characters)
    assert (found.kind, found.stride, found.span_tokens) == (SPANS, 1, max(SPAN_WORDS, expected))
    spans = [tuple(ids[i : i + found.span_tokens]) for i in range(len(ids) - found.span_tokens + 1)]
    inside = [span for span in spans if tokenizer.special.end not in span]
    assert found.num_entries == len(inside)
    assert all(found.contains(span, "") for span in inside)
    assert not any(found.contains(span, "") for span in spans if tokenizer.special.end in span)
    assert not any(found.contains(span[::-1], "") for span in {*inside} if span[::-1] not in {*inside})


@pytest.mark.parametrize("kind", KINDS)
def test_held_out_text_is_not_found(kind):
    text, other = sentences(0, 2000), sentences(1, 2000)
    tokenizer = trained(kind, [text], ends=False)
    found = build_training_filter(corpus_of("c", [text], ends=False), tokenizer)
    assert found.find_spans(tokenizer.encode(other)).tolist() == []
    lines = [f"line {number}" for number in range(2000)]
    tokenizer = trained(kind, lines, ends=True)
    found = build_training_filter(corpus_of("c", lines[::2], ends=True), tokenizer)
    assert sum(found.contains([], line) for line in lines) == 1000


@pytest.mark.parametrize("ends", [False, True], ids=["running", "documents"])
def test_a_large_text_has_fewer_spans_and_every_longer_copy_is_found(monkeypatch, ends):
    """The stride keeps the filter within its maximum size."""
    monkeypatch.setattr(module, "MAX_BYTES", 2048)
    monkeypatch.setattr(module, "_BLOCK_TOKENS", 101)
    text = sentences(0, 400)
    tokenizer = CharacterTokenizer.train(text, end_token=ends)
    found = build_training_filter(corpus_of("c", [text], ends=ends), tokenizer)
    assert found.stride == 5
    assert found.num_bytes <= 2048 + 64
    assert found.num_entries == len(range(0, len(text) - 50 + 1, 5))
    ids, length = tokenizer.encode(text), 50 + 5 - 1
    assert all(found.contains(ids[i : i + length], "") for i in range(len(ids) - length + 1))


def test_too_many_documents_have_no_filter(monkeypatch):
    """A sample of them would miss the others; the limit is that of the size."""
    lines = [f"line {number}" for number in range(700)]
    tokenizer = CharacterTokenizer.train(lines, end_token=True)
    monkeypatch.setattr(module, "MAX_BYTES", 2048)
    assert build_training_filter(corpus_of("c", lines, ends=True), tokenizer) is None
    assert build_training_filter(corpus_of("c", lines[:680], ends=True), tokenizer).num_bytes <= 2048 + 64


@pytest.mark.parametrize("ends", [False, True], ids=["running", "documents"])
def test_memory_does_not_grow_with_the_corpus(monkeypatch, ends):
    """16 MB of text are added within 16 MiB of memory, a filter of 1 MiB included."""
    monkeypatch.setattr(module, "MAX_BYTES", 1 << 20)
    monkeypatch.setattr(module, "_BLOCK_TOKENS", 1 << 16)
    monkeypatch.setattr(corpus_module, "BLOCK_BYTES", 1 << 16)
    lines = (f"{i} " + "x" * 190 for i in range(80_000))
    corpus = corpus_of("c", lines if ends else ["".join(lines)], ends=ends)
    tokenizer = CharacterTokenizer.train("0123456789 x", end_token=ends)
    tracemalloc.start()
    found = build_training_filter(corpus, tokenizer)
    used = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (found.kind == DOCUMENTS, corpus.num_characters > 15_000_000) == (ends, True)
    assert used < 16 << 20


@pytest.mark.parametrize(("length", "kind"), [(200, DOCUMENTS), (201, SPANS)])
def test_long_documents_have_spans(length, kind):
    documents = ["ab" * 50, "a" * (2 * length - 100)]
    tokenizer = CharacterTokenizer.train(documents, end_token=True)
    assert build_training_filter(corpus_of("c", documents, ends=True), tokenizer).kind == kind


def test_a_text_shorter_than_a_span_has_an_empty_filter():
    tokenizer = CharacterTokenizer.train("abc")
    found = build_training_filter(corpus_of("c", ["abc"], ends=False), tokenizer)
    assert (found.num_entries, found.false_positive_rate) == (0, 0.0)
    assert not found.contains(tokenizer.encode("abc" * 40), "")


def test_the_tokens_of_a_text_do_not_matter_for_documents():
    """A model may sample other tokens than those that the tokenizer chooses; the text is a copy all the same."""
    tokenizer = SubwordTokenizer.train(["the man"] * 3, vocab_size=270, end_token=True)
    found = build_training_filter(corpus_of("c", ["the man"], ends=True), tokenizer)
    spelled = list(itertools.chain.from_iterable(tokenizer.encode(character) for character in "the man"))
    assert spelled != tokenizer.encode("the man")
    assert found.contains(spelled, tokenizer.decode(spelled))


def test_building_can_be_interrupted_between_two_blocks():
    for ends in (True, False):
        tokenizer = CharacterTokenizer.train("ab", end_token=ends)
        with deferred_interrupts():
            signal.raise_signal(signal.SIGINT)
            with pytest.raises(KeyboardInterrupt):
                build_training_filter(corpus_of("c", ["ab"], ends=ends), tokenizer)
