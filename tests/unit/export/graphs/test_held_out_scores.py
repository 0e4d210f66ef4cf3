"""Quantiles of the scores of held-out texts: the same scores as the gateway's."""

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from contract.label_columns import LabelColumn, label_tokens
from contract.tokenizers import CharacterTokenizer
from export.graphs.held_out_scores import MAX_SCORED, MIN_SCORED, score_held_out


def fake_score(token_ids, lengths, state, num_top):  # noqa: ARG001 - the signature's
    """Return the negative id of each next token as its log probability, 0 past the length."""
    inside = np.arange(token_ids.shape[1] - 1) < lengths.numpy()[:, None]
    return {"logprobs": tf.constant(-token_ids.numpy()[:, 1:].astype(np.float32) * inside), "state": state}


def quantiles(tokenizer, documents, *, backward=False, label_columns=()):
    direction = "backward" if backward else "forward"
    card = SimpleNamespace(state_size=4, direction=direction, label_columns=label_columns)
    return score_held_out(fake_score, tokenizer, documents, card)


@pytest.mark.parametrize("backward", [False, True])
def test_documents_are_scored_whole(backward):
    tokenizer = CharacterTokenizer.train("abc", end_token=True)
    documents = ["", *["ab" * n for n in range(1, 150)]]
    found = quantiles(tokenizer, documents, backward=backward)
    end = tokenizer.special.end
    expected = [(sum(tokenizer.encode(text)) + end) / (len(text) + 1) for text in documents]
    assert (found.kind, found.num_texts) == ("documents", 150)
    np.testing.assert_allclose(found.quantiles, np.quantile(expected, np.linspace(0, 1, 101)), atol=1e-6)


@pytest.mark.parametrize("backward", [False, True])
def test_of_a_running_text_lines_are_scored_without_the_token_that_is_read_first(backward):
    tokenizer = CharacterTokenizer.train("abc\n")
    lines = ["abc"[n % 3] + "ab" * (n % 20) for n in range(300)]
    found = quantiles(tokenizer, ["\n\n".join(lines), "c", ""], backward=backward)
    scored = [line[:-1] if backward else line[1:] for line in lines if len(line) > 1]
    expected = [sum(tokenizer.encode(text)) / len(text) for text in scored]
    assert (found.kind, found.num_texts) == ("lines", len(scored))
    np.testing.assert_allclose(found.quantiles, np.quantile(expected, np.linspace(0, 1, 101)), atol=1e-6)


def test_a_model_with_labels_reads_that_there_are_none():
    """The log probability of that is no part of the score."""
    columns = (LabelColumn(name="style", values=("old", "new")),)
    tokenizer = CharacterTokenizer.train("abc", end_token=True).extended(
        [], end_token=True, labels=label_tokens(columns)
    )
    documents = ["ab" * n for n in range(150)]
    plain, labeled = (quantiles(tokenizer, documents, label_columns=each) for each in ((), columns))
    assert labeled.quantiles == plain.quantiles


def test_there_are_limits_of_texts_and_their_lengths():
    tokenizer = CharacterTokenizer.train("abc", end_token=True)
    assert quantiles(tokenizer, ["ab"] * (MIN_SCORED - 1)) is None
    assert quantiles(tokenizer, ["ab", "c" * 2000] * MIN_SCORED).num_texts == MIN_SCORED
    assert quantiles(tokenizer, ["ab"] * 5000).num_texts == MAX_SCORED
    assert quantiles(tokenizer, ["ab" * 100] * 500).num_texts < 200
