"""Sequences and sliding windows, in which every token is predicted once from the tokens before it."""

import numpy as np
import pytest

from contract.tokenizers import CharacterTokenizer, WordTokenizer
from export.config import load_config
from export.errors import CorpusError
from export.training.dataset import (
    BURN_IN,
    VALIDATION_BATCH_SIZE,
    VALIDATION_WINDOWS,
    Dataset,
    Mixed,
    Sequences,
    SlidingWindows,
)
from tests.unit.export.texts import corpus_of

FIRST = 99


def lay_out(length, streams, window):
    """Lay out the ids 0, 1, 2, … for training."""
    return Sequences.for_training(np.arange(length, dtype=np.int32), FIRST, streams, window)


@pytest.mark.parametrize(("length", "streams", "window"), [(100, 4, 10), (103, 4, 10), (23, 2, 7), (5, 32, 100)])
def test_each_sequence_continues_from_batch_to_batch(length, streams, window):
    laid_out = lay_out(length, streams, window)
    inputs, targets = (np.concatenate(parts).T for parts in zip(*laid_out.batches(), strict=True))
    rows, each = targets.shape
    assert targets.ravel().tolist() == list(range(rows * each))
    assert inputs.ravel().tolist() == [FIRST, *range(rows * each - 1)]
    assert length - rows * each < rows


def test_arrays_are_int32_and_time_comes_first():
    inputs, targets = next(lay_out(100, 4, 10).batches())
    assert (inputs.shape, targets.shape) == ((10, 4), (10, 4))
    assert (inputs.dtype, targets.dtype) == (np.int32, np.int32)


@pytest.mark.parametrize(
    ("length", "streams", "window", "rows"),
    [(1000, 8, 100, 8), (799, 8, 100, 7), (99, 8, 100, 1), (1, 8, 100, 1), (1000, 1, 1, 1)],
)
def test_a_small_text_gets_a_smaller_batch_size(length, streams, window, rows):
    assert lay_out(length, streams, window).batch_size == rows


def test_the_last_batch_has_the_remaining_tokens():
    laid_out = lay_out(25, 1, 10)
    assert [len(inputs) for inputs, _ in laid_out.batches()] == [10, 10, 5]
    assert (laid_out.num_batches, laid_out.num_tokens) == (3, 25)


def test_each_epoch_predicts_every_token_once_and_begins_elsewhere():
    firsts = set()
    for epoch in range(200):
        batches = lay_out(25, 2, 5).batches(np.random.default_rng(epoch))
        inputs, targets = (np.concatenate(parts).T for parts in zip(*batches, strict=True))
        order = targets.ravel()
        assert np.array_equal(order, (order[0] + np.arange(24)) % 24)
        assert np.array_equal(inputs, np.where(targets, targets - 1, FIRST))
        firsts.add(int(order[0]))
    assert firsts == set(range(24))


START, END = 98, 97


def sliding_windows(ids, context, end=None, batch=4):
    """Return all windows of some ids and the target of each, in order."""
    laid_out = SlidingWindows(np.asarray(ids, np.int32), batch, START, end, context)
    inputs, targets = zip(*laid_out.batches(), strict=True)
    assert len(inputs) == laid_out.num_batches
    return np.concatenate(inputs, axis=1).T.tolist(), np.concatenate(targets, axis=1)[0].tolist()


def test_each_target_has_its_context_padded_on_the_left():
    windows, targets = sliding_windows([11, 12, 13, 14], 3)
    assert windows == [[0, 0, START], [0, START, 11], [START, 11, 12], [11, 12, 13]]
    assert targets == [11, 12, 13, 14]


def test_a_window_does_not_cross_documents():
    windows, targets = sliding_windows([11, 12, END, 21, 22, END], 4, end=END)
    assert windows[2:5] == [[0, START, 11, 12], [0, 0, 0, END], [0, 0, END, 21]]
    assert targets == [11, 12, END, 21, 22, END]


def test_an_epoch_has_every_window_once_and_some_are_shortened():
    ids = np.arange(100, 700, dtype=np.int32)
    laid_out = SlidingWindows(ids, 32, START, None, 8)
    orders, cut = [], 0
    for epoch in range(2):
        inputs, targets = (
            np.concatenate(parts, axis=1) for parts in zip(*laid_out.batches(np.random.default_rng(epoch)), strict=True)
        )
        orders.append(targets[0].tolist())
        assert sorted(orders[-1]) == ids.tolist()
        for window, target in zip(inputs.T, targets[0], strict=True):
            full = [START, *ids][: target - 99][-8:]
            kept = window[window != 0]
            assert kept.tolist() == full[len(full) - len(kept) :]
            assert not window[: 8 - len(kept)].any()
            cut += len(kept) < len(full)
    assert orders[0] != orders[1]
    assert 0.1 < cut / 1200 < 0.3


def test_a_long_text_is_shuffled_in_blocks(monkeypatch):
    monkeypatch.setattr("export.training.dataset.SHUFFLED_WINDOWS", 64)
    monkeypatch.setattr("export.training.dataset.RUN_TOKENS", 8)
    ids = np.arange(100, 1003, dtype=np.int32)
    laid_out = SlidingWindows(ids, 10, START, None, 4)
    inputs, targets = zip(*laid_out.batches(np.random.default_rng(0)), strict=True)
    assert [len(each[0]) for each in targets] == [10] * 90 + [3]
    order = np.concatenate(targets, axis=1)[0]
    assert sorted(order) == ids.tolist()
    assert np.abs(np.diff(order[:64])).max() > 400
    newest = np.concatenate(inputs, axis=1)[-1]
    assert np.all((newest == order - 1) | (order == 100))


def dataset(head, tail, tokenizer=None, window=10, **settings):
    config = load_config(None, {"name": "m", "corpus": "c", "batch_size": 4, "sequence_length": window, **settings})
    parts = [text if text is None else corpus_of("c", [text], ends=False) for text in (head, tail)]
    return Dataset.lay_out(*parts, tokenizer or CharacterTokenizer.train(head), config)


def test_a_validation_split_shorter_than_a_sequence_is_evaluated_whole():
    validation = dataset("abcabc" * 20, "cab").validation
    assert (validation.batch_size, validation.num_tokens) == (1, 3)


IGNORED = -1


@pytest.mark.parametrize(("length", "rows"), [(3, 1), (799, 1), (805, 2), (40_003, VALIDATION_BATCH_SIZE)])
@pytest.mark.parametrize("window", [7, BURN_IN, 2_000])
def test_validation_sequences_have_a_burn_in(length, rows, window):
    laid_out = Sequences.for_validation(np.arange(length, dtype=np.int32), FIRST, window, IGNORED)
    inputs, targets = (np.concatenate(parts).T for parts in zip(*laid_out.batches(), strict=True))
    assert laid_out.batch_size == len(targets) == rows
    judged = targets != IGNORED
    assert targets[judged].tolist() == list(range(laid_out.num_tokens))
    assert length - laid_out.num_tokens < rows
    assert (~judged).sum(axis=1).tolist() == [0] + [BURN_IN] * (rows - 1)
    assert inputs[0].tolist() == [FIRST, *range(inputs.shape[1] - 1)]
    assert np.all(np.diff(inputs[1:]) == 1)
    assert np.all(inputs[1:, BURN_IN:] == targets[1:, BURN_IN:] - 1)


def test_a_bidirectional_model_gets_sliding_windows():
    laid_out = dataset("abcabc" * 20, "cab" * 100, bidirectional=True, context_length=5)
    assert (laid_out.train.batch_size, laid_out.train.batch_tokens) == (4, 20)
    assert laid_out.validation.batch_size == VALIDATION_WINDOWS
    assert next(laid_out.train.batches())[0].shape == (5, 4)


def test_unknown_tokens_are_not_evaluated():
    """An unseen character is never sampled, so its loss would say nothing about generated text."""
    laid_out = dataset("abcabc", "aXbYZ")
    assert (laid_out.num_evaluated, laid_out.share_unknown) == (2, pytest.approx(0.6))


def test_the_baseline_evaluates_known_tokens_only():
    text = "abcabcabc"
    with_unknown = dataset(text, "abcX", CharacterTokenizer.train("abc")).ngram_baseline()
    assert with_unknown == dataset(text, "abc", CharacterTokenizer.train("abc")).ngram_baseline()


def test_without_a_validation_split_no_tokens_are_evaluated():
    laid_out = dataset("abcabc", None)
    assert laid_out.ngram_baseline() is None
    assert (laid_out.validation, laid_out.num_evaluated, laid_out.share_unknown) == (None, 0, 0.0)


@pytest.mark.parametrize(
    ("head", "tail", "tokenizer", "message"),
    [
        ("a", None, None, "at least 2 tokens are needed to train on, got 1"),
        ("?!", None, WordTokenizer.train(["one two"]), "at least 2 tokens are needed to train on, got 0"),
        ("abab", "XYZ", None, "has none of the 3 tokens held out.*--validation 0"),
        ("one two", " ?!", WordTokenizer.train(["one two"]), "has none of the 0 tokens held out"),
    ],
    ids=["one token", "no word", "an unknown tail", "a tail without words"],
)
def test_a_split_without_usable_tokens_is_rejected(head, tail, tokenizer, message):
    with pytest.raises(CorpusError, match=message):
        dataset(head, tail, tokenizer)


def mixed_batches(mixed, seed=0):
    """Return the inputs and targets of an epoch of mixed sequences, (rows, tokens) each."""
    return [np.concatenate(parts).T for parts in zip(*mixed.batches(np.random.default_rng(seed)), strict=True)]


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_a_mixed_text_has_its_share_of_the_tokens(share):
    mixed = Mixed.of(lay_out(4000, 20, 10), np.arange(1000, 1500), share)
    assert mixed.num_other_tokens / mixed.num_tokens == pytest.approx(share)
    inputs, targets = next(mixed.batches(np.random.default_rng(0)))
    assert (inputs.shape, targets.shape) == ((10, mixed.batch_size), (10, mixed.batch_size))
    assert (inputs.dtype, targets.dtype, mixed.batch_tokens) == (np.int32, np.int32, inputs.size)


def test_a_row_of_a_mixed_text_is_one_excerpt_of_it():
    other = np.arange(1000, 1150, dtype=np.uint16)
    mixed = Mixed.of(lay_out(800, 4, 10), other, 0.5)
    inputs, targets = mixed_batches(mixed)
    assert np.array_equal(targets[4:], (inputs[4:] - 999) % 150 + 1000)
    assert np.array_equal(inputs[4:, 1:], targets[4:, :-1])
    assert np.array_equal(inputs[4:], mixed_batches(mixed)[0][4:])
    assert not np.array_equal(inputs[4:, 0], mixed_batches(mixed, seed=1)[0][4:, 0])


def test_the_rows_of_the_text_itself_stay_as_they_are():
    inputs, targets = mixed_batches(Mixed.of(lay_out(800, 4, 10), np.arange(1000, 1100), 0.5))
    assert np.array_equal(targets[:4], (targets[0, 0] + np.arange(800)).reshape(4, 200) % 800)
    assert inputs[4:].min() >= 1000 > inputs[:4].max()


def test_windows_of_a_mixed_text_are_sampled_from_it():
    main = SlidingWindows(np.arange(1, 41), 8, FIRST, None, 5)
    mixed = Mixed.of(main, np.arange(1000, 1200), 0.5)
    batches = list(mixed.batches(np.random.default_rng(0)))
    assert (mixed.num_tokens, mixed.num_other_tokens) == (80, 40)
    assert len(batches) == 5
    for inputs, targets in batches:
        assert np.array_equal(inputs[-1, 8:], targets[0, 8:] - 1)
    assert sorted(np.concatenate([targets[0, :8] for _, targets in batches])) == list(range(1, 41))
