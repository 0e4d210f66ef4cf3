"""A fine-tuned model starts as its base: every known token gets the same logits, and a new one a small probability."""

import keras
import numpy as np
import pytest

from contract.tokenizers import CharacterTokenizer
from export.config import load_config
from export.errors import UnsupportedModel
from export.training.base_version import BaseVersion
from export.training.dataset import Dataset
from export.training.initial_weights import initial_weights
from export.training.model import build_model
from tests.unit.export.repository.stored import store
from tests.unit.export.texts import corpus_of
from tests.unit.export.trainings import TEXT, store_trained

ARCHITECTURES = {
    "lstm": {},
    "two gru": {"cell": "gru", "layers": 2},
    "residual": {"layers": 3, "connections": "residual"},
    "skip": {"layers": 2, "connections": "skip"},
    "tied": {"tie_embeddings": True},
    "bidirectional": {"bidirectional": True, "context_length": 4},
}


def go_on(models_dir, text, *, documents=False):
    """Return the tokenizer of the base, that of a model that is fine-tuned from it, and this model."""
    base = BaseVersion.find("base", models_dir)
    config = base.complete(load_config(None, {"name": "new", "corpus": "c", "from": "base"}))
    corpus = corpus_of("c", [text], ends=documents)
    tokenizer = base.extended_tokenizer(corpus)
    model = build_model(config, len(tokenizer.tokens))
    model.set_weights(initial_weights(config, Dataset.lay_out(corpus, None, tokenizer, config), base))
    return base.tokenizer, tokenizer, model


def logits(model, ids):
    return np.asarray(model(np.array([ids], np.int32), training=False))[..., -1, :].ravel()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_known_tokens_have_the_logits_of_the_base(tmp_path, architecture):
    before = store_trained(tmp_path, **ARCHITECTURES[architecture])
    old, new, after = go_on(tmp_path, "über!")
    assert new.tokens == (*old.tokens, "!", "b", "ü")
    ids = old.encode("sat ")
    expected, got = logits(before, ids), logits(after, ids)
    assert np.allclose(got[: len(expected)], expected, atol=1e-5)


@pytest.mark.parametrize("architecture", ["lstm", "tied"])
def test_a_new_token_is_neither_likely_nor_impossible(tmp_path, architecture):
    """The mean of the weights gives it the mean of the logits; its vector is another one than those of other tokens."""
    store_trained(tmp_path, **ARCHITECTURES[architecture])
    old, _, model = go_on(tmp_path, "über!")
    values = logits(model, old.encode("sat "))
    known = values[3 : len(old.tokens)]
    assert np.all(np.abs(values[len(old.tokens) :] - known.mean()) < 1)
    vectors = np.asarray(model.get_layer("embedding").embeddings)
    assert len(np.unique(vectors.round(6), axis=0)) == len(vectors)


@pytest.mark.parametrize("architecture", ["lstm", "tied"])
def test_an_end_token_in_place_of_a_start_token_can_be_sampled(tmp_path, architecture):
    """A start token is never a target, so its logit is far below the others."""
    before = store_trained(tmp_path, **ARCHITECTURES[architecture])
    layer = before.get_layer("embedding" if architecture == "tied" else "logits")
    *others, last = layer.get_weights()
    last[2] = -50
    layer.set_weights([*others, last])
    before.save(tmp_path / "base/1/assets.extra/model.keras")
    old, new, after = go_on(tmp_path, TEXT, documents=True)
    assert (new.special.end, old.special.start, len(new.tokens)) == (2, 2, len(old.tokens))
    ids = old.encode("sat ")
    expected, got = logits(before, ids), logits(after, ids)
    assert abs(got[2] - expected[3:].mean()) < 1
    assert np.allclose(np.delete(got, 2), np.delete(expected, 2), atol=1e-5)


def test_a_base_with_an_end_token_keeps_it(tmp_path):
    before = store_trained(tmp_path, documents=True)
    old, new, after = go_on(tmp_path, TEXT, documents=True)
    assert new.to_json() == old.to_json()
    assert np.allclose(logits(after, old.encode("sat ")), logits(before, old.encode("sat ")), atol=1e-5)


def store_imported(models_dir, *layers, vocab_size=12):
    """Write a version of an imported model: an embedding, these layers, and an output layer; return the model."""
    tokenizer = CharacterTokenizer(["<pad>", "<unk>", *"abcdefgh"])
    parts = [keras.layers.Input([None]), keras.layers.Embedding(vocab_size, 4), *layers]
    model = keras.Sequential([*parts, keras.layers.Dense(vocab_size, activation="softmax")])
    card = {"training": None, "layers": 1, "units": 16, "vocab_size": vocab_size}
    place = store(models_dir, "base", tokenizer=tokenizer, card=card)
    model.save(place / "assets.extra" / "model.keras")
    return model


def test_an_imported_model_of_the_same_structure_goes_on(tmp_path):
    before = store_imported(tmp_path, keras.layers.LSTM(16, return_sequences=True), keras.layers.Dropout(0.1))
    old, new, after = go_on(tmp_path, "abü", documents=True)
    assert new.tokens == (*old.tokens, "<end>", "ü")
    ids = old.encode("abc")
    expected, got = np.log(logits(before, ids)[:10]), logits(after, ids)
    assert np.allclose(got[:10] - got[0], expected - expected[0], atol=1e-4)
    assert got.shape == (12,)


STRUCTURES = {
    "a hidden layer": ([keras.layers.Dense(16, activation="relu")], {}),
    "another activation": ([], {"activation": "relu"}),
    "no bias": ([], {"use_bias": False}),
}


@pytest.mark.parametrize("kind", STRUCTURES)
def test_an_imported_model_of_another_structure_is_refused(tmp_path, kind):
    layers, options = STRUCTURES[kind]
    store_imported(tmp_path, keras.layers.LSTM(16, return_sequences=True, **options), *layers)
    with pytest.raises(UnsupportedModel, match="from = base:1: this version cannot be trained further: "):
        go_on(tmp_path, "abü")


def test_a_damaged_keras_model_is_refused(tmp_path):
    store_trained(tmp_path)
    (tmp_path / "base/1/assets.extra/model.keras").write_bytes(b"PK damaged")
    with pytest.raises(UnsupportedModel, match=r"model\.keras: "):
        go_on(tmp_path, "abü")


@pytest.mark.parametrize(("cell", "gain"), [("lstm", 2.0), ("gru", 1.0), ("simple_rnn", 1.0)])
def test_kernels_start_with_twice_glorots_values_in_an_lstm(cell, gain):
    config = load_config(None, {"name": "new", "corpus": "c", "cell": cell, "units": 64})
    model = build_model(config, 50)
    for kernel in (model.get_layer("recurrent_0").cell.kernel, model.get_layer("logits").kernel):
        # A uniform distribution of this variance; the maximum of thousands of values is close to its limit.
        limit = gain * (6 / sum(kernel.shape)) ** 0.5
        assert np.abs(kernel).max() == pytest.approx(limit, rel=0.01)


@pytest.mark.parametrize("vocab_size", [100, 101])
def test_the_first_probabilities_of_many_tokens_are_the_frequencies_of_the_training_split(vocab_size):
    config = load_config(None, {"name": "new", "corpus": "c", "units": 8})
    counts = np.arange(vocab_size)
    bias = build_model(config, vocab_size, counts).get_layer("logits").bias.numpy()
    expected = (counts + 1) / (counts + 1).sum() if vocab_size > 100 else 1 / vocab_size
    assert np.allclose(np.exp(bias) / np.exp(bias).sum(), expected)


def test_the_gates_of_an_lstm_start_half_open():
    model = build_model(load_config(None, {"name": "new", "corpus": "c", "cell": "lstm", "units": 8}), 5)
    assert not model.get_layer("recurrent_0").cell.bias.numpy().any()
