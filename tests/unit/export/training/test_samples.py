"""Samples after each epoch and in a version, and the memorization check of generated text."""

import signal

import numpy as np
import pytest

from contract.signatures import MAX_DECODE_STEPS
from contract.tokenizers import CharacterTokenizer
from export.corpora.corpus import Chunk
from export.corpora.memorization import MIN_SPANS, SPAN_WORDS
from export.interrupts import deferred_interrupts
from export.training.samples import (
    KEPT_TEMPERATURES,
    MAX_MEMORIZATION_BATCHES,
    MEMORIZATION_BATCH_SIZE,
    MEMORIZATION_WORDS,
    SAMPLE_CHARACTERS,
    SampleWriter,
)
from tests.unit.export.trainings import TEXT, prepare

FORWARD, BACKWARD, WINDOW = (
    {},
    {"token_unit": "word", "direction": "backward"},
    {"bidirectional": True, "context_length": 6},
)
KINDS = pytest.mark.parametrize(
    "settings", [FORWARD, BACKWARD, pytest.param(WINDOW, marks=pytest.mark.slow)], ids=["forward", "backward", "window"]
)
ENDING = {"documents": "lines"}


@pytest.fixture(scope="module")
def traced():
    """A cache of traced models by their settings: tracing a graph takes seconds."""
    return {}


@pytest.fixture
def make(traced):
    """A factory of sample writers, each with a model and its tokenizer."""

    def make(texts=(TEXT,), **settings):
        key = repr(settings)
        if key not in traced:
            trainer, tokenizer = prepare(**settings)
            if settings == ENDING:
                tokenizer = CharacterTokenizer.train(TEXT, end_token=True)
            traced[key] = SampleWriter(tokenizer, texts, trainer.config), trainer.averaged_model, tokenizer
        writer = traced[key][0]
        writer.documents, writer._lengths = texts, np.array(list(map(len, texts)))
        return traced[key]

    return make


def bias(model, tokenizer, **logits):
    """Make a model generate these tokens alone, in any state; the higher the logit, the more probable."""
    layer = model.get_layer("logits")
    layer.kernel.assign(0 * layer.kernel)
    layer.bias.assign([logits.get(token, -100.0) for token in tokenizer.tokens])


@KINDS
def test_a_sample_continues_a_prompt_with_the_current_weights(make, settings):
    writer, model, tokenizer = make(**settings)
    backward = settings == BACKWARD
    for token in ("cat", "hill") if backward else ("c", "t"):
        bias(model, tokenizer, **{token: 0.0})
        (sample,) = writer.write(model)
        assert f" {sample.given} " in TEXT
        # The first or last word may be incomplete, as the length of a sample is limited.
        assert set(sample.text.split()[1:-1] if backward else sample.text) == {token}
        assert len(sample.text) <= SAMPLE_CHARACTERS


def test_a_text_without_words_still_gives_a_sample(make):
    """Generation begins with the start token if the prompt has no tokens."""
    writer, model, tokenizer = make(["?!"], **BACKWARD)
    bias(model, tokenizer, cat=0.0)
    (sample,) = writer.write(model)
    assert sample.given == "?!"
    assert sample.text.endswith("cat ")
    assert len(sample.text.split()) > 20


def test_a_prompt_does_not_cross_documents(make):
    writer, *_ = make(["the cat sat on the mat", "the dog"])
    given = {writer._pick_prompt(writer._rng) for _ in range(40)}
    assert given == {"the cat sat on the mat", "the dog"}


def test_a_short_document_with_an_end_is_not_a_prompt(make):
    """After the whole of a name there is nothing to generate; a longer document gives an excerpt."""
    writer, model, tokenizer = make(["the cat"], **ENDING)
    bias(model, tokenizer, **{"c": 5.0, "<end>": 0.0})
    samples = writer.samples(model)
    assert {sample.given for sample in samples} == {""}
    assert any(sample.text for sample in samples)
    writer, *_ = make(["the cat sat on the mat and so did the dog on the hill"], **ENDING)
    assert writer._pick_prompt(writer._rng)


@KINDS
def test_one_sample_per_temperature_is_stored_and_is_reproducible(make, settings):
    writer, model, tokenizer = make(**settings)
    tokens = {"cat", "hill"} if settings == BACKWARD else {"c", "t"}
    bias(model, tokenizer, **dict.fromkeys(tokens, 0.0))
    samples = writer.samples(model)
    assert tuple(sample.temperature for sample in samples) == KEPT_TEMPERATURES == (0.5, 0.8, 1.0)
    for sample in samples:
        assert f" {sample.given} " in TEXT
        assert set(sample.text.split()[1:-1] if settings == BACKWARD else sample.text) == tokens
        assert len(sample.text) == SAMPLE_CHARACTERS
    writer.write(model)
    assert writer.samples(model) == samples


def test_each_sample_is_generated_at_its_temperature(make):
    writer, model, tokenizer = make()
    bias(model, tokenizer, c=1.0, t=0.0)
    shares = [sample.text.count("c") / SAMPLE_CHARACTERS for sample in writer.samples(model)]
    assert shares == pytest.approx([1 / (1 + np.exp(-1 / degree)) for degree in KEPT_TEMPERATURES], abs=0.06)


def test_without_a_text_samples_have_an_empty_prompt(make):
    writer, model, tokenizer = make([])
    bias(model, tokenizer, c=0.0)
    assert [(sample.given, set(sample.text)) for sample in writer.samples(model)] == [("", {"c"})] * 3


def test_a_sample_ends_at_its_end_token(make):
    writer, model, tokenizer = make(**ENDING)
    bias(model, tokenizer, **{"c": 1.0, "<end>": -1.0})
    texts = [sample.text for sample in writer.samples(model)]
    assert all(set(text) <= {"c"} and len(text) < SAMPLE_CHARACTERS for text in texts)
    assert len(set(map(len, texts))) > 1


def test_a_finished_sequence_gets_no_further_decode_steps(make):
    writer, model, tokenizer = make(**ENDING)
    bias(model, tokenizer, **{"c": 5.0, "<end>": 0.0})
    writer._use_model(model)
    decode, calls = writer._decode_signature, []

    def record(**inputs):
        outputs = decode(**inputs)
        calls.append((inputs["steps"].numpy(), (outputs["token_ids"].numpy() == tokenizer.special.end).any(axis=1)))
        return outputs

    writer._decode_signature = record
    try:
        writer._generate(["the"] * 16, [1.0] * 16, 2 * MAX_DECODE_STEPS, np.random.default_rng(0))
    finally:
        writer._decode_signature = decode
    (_, ended), (steps, _) = calls
    assert 0 < ended.sum() < 16
    assert (steps > 0).tolist() == (~ended).tolist()


@pytest.mark.parametrize(("settings", "last"), [(FORWARD, "t"), (BACKWARD, "the")])
def test_prefill_ends_at_the_token_next_to_the_generated_text(make, settings, last):
    """A backward model reads the first word of a suffix last."""
    writer, model, tokenizer = make(**settings)
    writer._use_model(model)
    token_ids, _ = writer._prefill(["the cat sat"])
    assert tokenizer.tokens[token_ids[0]] == last


@pytest.mark.parametrize(("words", "rounds"), [(-100.0, MAX_MEMORIZATION_BATCHES), (5.0, 1)])
def test_short_sequences_are_generated_until_there_are_enough_words(make, words, rounds):
    writer, model, tokenizer = make(**ENDING)
    bias(model, tokenizer, **{"c": words, " ": words, "<end>": 0.0 if words < 0 else -100.0})
    write, calls = writer._generate, []
    writer._generate = lambda *arguments: calls.append(arguments) or write(*arguments)
    try:
        writer.measure_memorization(model, [Chunk(TEXT, is_last=True)])
    finally:
        del writer._generate
    assert len(calls) == rounds


def test_memorization_counts_the_runs_in_the_training_text(make):
    writer, model, tokenizer = make(**BACKWARD)
    bias(model, tokenizer, cat=0.0)
    copies = writer.measure_memorization(model, [Chunk("Cat, cat! " * 100, is_last=True)])
    assert copies.num_copied == copies.num_spans == MEMORIZATION_BATCH_SIZE * (MEMORIZATION_WORDS - 2 - SPAN_WORDS + 1)
    assert writer.measure_memorization(model, [Chunk("the cat " * 100, is_last=True)]).num_copied == 0


def test_a_character_model_generates_enough_words_for_the_check(make):
    """The number of tokens is estimated from the word length of the text; the result is reproducible."""
    writer, model, tokenizer = make()
    bias(model, tokenizer, **{"c": 0.0, " ": 1.0})
    copies = writer.measure_memorization(model, [Chunk("c c c c c c c c c", is_last=True)])
    limit = MEMORIZATION_BATCH_SIZE * MEMORIZATION_WORDS
    assert limit / 4 < copies.num_spans < limit
    assert 0 < copies.num_copied < copies.num_spans
    assert writer.measure_memorization(model, [Chunk("c c c c c c c c c", is_last=True)]) == copies


def test_a_character_model_in_lower_case_copies_a_text_in_capitals(make, monkeypatch):
    """Its vocabulary was imported, and the model is trained further."""
    writer, model, tokenizer = make()
    monkeypatch.setattr(writer, "_tokenizer", CharacterTokenizer(tokenizer.tokens, lower=True))
    bias(model, tokenizer, **{"c": 0.0, " ": 1.0})
    assert writer.measure_memorization(model, [Chunk("C C C C C C C C C", is_last=True)]).num_copied


def test_a_model_that_generates_too_few_words_has_no_copied_share(make):
    writer, model, tokenizer = make()
    bias(model, tokenizer, c=0.0)
    copies = writer.measure_memorization(model, [Chunk(TEXT, is_last=True)])
    assert copies.num_spans < MIN_SPANS
    assert copies.share is None


def test_a_sliding_window_model_generates_fewer_tokens(make):
    counts = {}
    for context in (None, 128, 4096):
        writer, *_ = make(**({"bidirectional": True, "context_length": context} if context else {}))
        counts[context] = writer._num_memorization_tokens(["the cat"])
    assert counts == {None: 224, 128: 128, 4096: 4}


def test_the_memorization_check_can_be_interrupted(make):
    writer, model, _ = make()
    with deferred_interrupts():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            writer.measure_memorization(model, [Chunk(TEXT, is_last=True)])
