"""Signatures in bfloat16 are as bit-exact as those in float32, and close to them."""

import functools
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from contract.tokenizers import CharacterTokenizer
from export.graphs import cells, precision
from export.graphs.checks import check_precision
from export.graphs.exportable import prepare
from tests.unit.export.models import VOCABULARY, make_model
from tests.unit.export.published import END, IDS, ROWS, UNIFORMS, Published, same_bits

MODELS = {
    "lstm": {"cell": "lstm", "layers": 2},
    "gru": {"cell": "gru", "layers": 2},
    "original gru": {"cell": "gru", "reset_after": False},
    "simple rnn": {"cell": "simple_rnn"},
}


@functools.cache
def published(name, end=None):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cells, "MIN_BFLOAT16_UNITS", 1)
        return Published.kept(make_model(**MODELS[name]), f"precision-{name}-{end}", end)


@pytest.fixture(params=["lstm", *(pytest.param(name, marks=pytest.mark.slow) for name in MODELS if name != "lstm")])
def model(request):
    """A model whose methods call the signatures in bfloat16."""
    return published(request.param).using("bfloat16")


def test_a_narrow_model_has_no_signatures_in_bfloat16():
    assert prepare(make_model()).network.precisions == (precision.FLOAT32,)


def test_a_wide_model_has_every_signature_in_both(model):
    names = {name for name in model.functions if "bfloat16" not in name}
    assert {name.removesuffix("_bfloat16") for name in model.functions if "bfloat16" in name} == names - {
        "serving_default"
    }


def test_logprobs_are_close_to_those_in_float32(model):
    """Random weights with a deviation of 0.5 amplify a rounding error far more than trained ones."""
    lengths = np.full(ROWS, 19, np.int32)
    scored, exact = (
        version.call("score", token_ids=IDS, lengths=lengths, state=model.zeros())["logprobs"]
        for version in (model, model.using("float32"))
    )
    assert not same_bits(scored, exact)
    np.testing.assert_allclose(scored[:, :3], exact[:, :3], atol=0.1)


def test_states_are_bit_exact_across_signatures_and_calls(model):
    state = model.read(IDS[:, :-1])
    assert same_bits(model.read(IDS[:, 7:-1], model.read(IDS[:, :7])), state)
    sampled = model.draw(IDS[:, -1], state, UNIFORMS)
    text = np.concatenate([IDS[:, -1:], sampled["token_ids"]], axis=1)
    assert same_bits(model.read(text[:, :-1], state), sampled["state"])
    inputs = {"token_ids": text, "lengths": np.full(ROWS, 24, np.int32), "state": state}
    for name in ("score", "inspect"):
        scored = model.call(name, **inputs)
        assert same_bits(scored["state"], sampled["state"])
        assert same_bits(scored["logprobs"], sampled["logprobs"])
    first = model.draw(IDS[:, -1], state, UNIFORMS[:, :5])
    second = model.draw(first["token_ids"][:, -1], first["state"], UNIFORMS[:, 5:])
    assert same_bits(np.concatenate([first["token_ids"], second["token_ids"]], axis=1), sampled["token_ids"])
    assert same_bits(model.draw_full(IDS[:, -1], state, UNIFORMS)["token_ids"], sampled["token_ids"])


def test_a_sequence_does_not_depend_on_others_or_on_padding(model):
    lengths = np.array([20, 3, 0, 7, 20, 11, 1, 19], np.int32)
    padded = np.where(np.arange(20) < lengths[:, None], IDS, 0).astype(np.int32)
    ragged = model.call("prefill", token_ids=padded, lengths=lengths, state=model.zeros())["state"]
    for row, length in enumerate(lengths):
        alone = np.tile(IDS[row : row + 1, :length], (16, 1))
        assert same_bits(model.read(alone, model.zeros(16))[5], ragged[row])


def test_embeddings_are_the_top_layers_outputs(model):
    lengths = np.full(ROWS, 19, np.int32)
    inspected = model.call("inspect", token_ids=IDS, lengths=lengths, state=model.zeros())
    top = max(name for name in inspected if name.startswith("hidden"))
    total = np.zeros((ROWS, inspected[top].shape[2]), np.float32)
    embedded = model.call("embed", token_ids=IDS[:, :19], lengths=lengths, state=model.zeros(), sum=total)
    assert same_bits(embedded["last"], inspected[top][:, -1].copy())
    np.testing.assert_allclose(embedded["sum"], inspected[top].sum(1), rtol=1e-5, atol=1e-5)


TOKENIZER = CharacterTokenizer.train("abcdefghijklmnop")


def score_of(loss):
    """Return a signature that gives every token the same log probability."""

    def score(token_ids, lengths, state, num_top):
        assert (token_ids.shape[1], state.shape) == (257, (len(lengths), 4))
        assert num_top.numpy().tolist() == [0] * len(lengths)
        return {"logprobs": keras.ops.full((len(lengths), 256), -loss)}

    return score


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_the_precisions_are_compared_on_held_out_text(direction):
    functions = {"score": score_of(1.25), "score_bfloat16": score_of(1.5)}
    card = SimpleNamespace(state_size=4, direction=direction)
    check = check_precision(functions, TOKENIZER, ["abc" * 200, "bca" * 100], card)
    assert (check.text, check.tokens) == ("held_out", 3 * 256)
    assert (check.float32, check.bfloat16, check.difference) == (1.25, 1.5, 0.25)


def test_without_held_out_text_they_are_compared_on_sampled_text():
    """The model samples in float32; what comes after an end token is not scored."""
    model = published("lstm", END)
    functions = model.functions
    letters = "".join(map(chr, range(97, 97 + VOCABULARY - 5)))
    tokenizer = CharacterTokenizer.train(letters)
    card = SimpleNamespace(state_size=model.state_size, direction="forward")
    check = check_precision(functions, tokenizer, ["too short"], card)
    assert check.text == "sampled"
    assert 0 < check.tokens <= 64 * 256
    assert abs(check.difference) < 0.2
