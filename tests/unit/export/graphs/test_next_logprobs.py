"""`next_logprobs` returns the log probabilities of all tokens after each sequence, and after what follows greedily."""

import numpy as np
import pytest

from tests.unit.export.published import IDS, ROWS, UNIFORMS, same_bits

LENGTH = IDS.shape[1]


def predict(published, token_ids, lengths=None, state=None, num_ahead=0):
    """Return what follows the last token, or, with `num_ahead`, all outputs."""
    outputs = published.call(
        "next_logprobs",
        token_ids=token_ids,
        lengths=np.full(len(token_ids), token_ids.shape[1], np.int32) if lengths is None else lengths,
        state=published.zeros(len(token_ids)) if state is None else state,
        num_ahead=np.full(len(token_ids), num_ahead, np.int32),
    )
    return outputs if num_ahead else {name: outputs[name][:, 0] for name in ("logprobs", "state")}


def test_it_returns_the_models_distribution_and_the_state_of_prefill(stack):
    _, published = stack
    predicted = predict(published, IDS)
    logits = published.functions["serving_default"](token_ids=IDS)["logits"].numpy()[:, -1].astype(np.float64)
    expected = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(predicted["logprobs"], expected, atol=1e-4)
    assert same_bits(predicted["state"], published.read(IDS))


def test_a_token_has_the_same_bits_as_where_it_is_sampled_and_scored(stack):
    _, published = stack
    state = published.read(IDS[:, :-1])
    predicted = predict(published, IDS[:, -1:], state=state)["logprobs"]
    drawn = published.draw(IDS[:, -1], state, UNIFORMS[:, :1])
    pairs = np.concatenate([IDS[:, -1:], drawn["token_ids"]], axis=1)
    scored = published.call("score", token_ids=pairs, lengths=np.ones(ROWS, np.int32), state=state)
    of_drawn = np.take_along_axis(predicted, drawn["token_ids"], axis=1)
    assert same_bits(of_drawn, drawn["logprobs"])
    assert same_bits(of_drawn, scored["logprobs"])


def test_what_follows_greedily_has_the_same_bits_as_in_calls_of_its_own(stack):
    _, published = stack
    ahead = predict(published, IDS, num_ahead=3)
    last = predict(published, IDS)
    for step in range(4):
        for name, value in last.items():
            assert same_bits(ahead[name][:, step], value)
        if step < 3:
            drawn = published.draw(ahead["token_ids"][:, step], last["state"], UNIFORMS[:, :1], temperature=0.0)
            last = predict(published, ahead["token_ids"][:, step : step + 1], state=last["state"])
            if step < 2:
                assert same_bits(drawn["token_ids"][:, 0], ahead["token_ids"][:, step + 1])


@pytest.mark.parametrize("cut", [1, 7, 19])
def test_two_slices_are_bit_exact_to_one_call(stack, cut):
    _, published = stack
    first = predict(published, IDS[:, :cut])
    second = predict(published, IDS[:, cut:], state=first["state"])
    for name, value in predict(published, IDS).items():
        assert same_bits(second[name], value)


def test_padding_changes_no_bit(stack):
    _, published = stack
    lengths = np.array([20, 1, 5, 20, 19, 7, 3, 12], np.int32)
    token_ids = np.where(np.arange(LENGTH)[None] < lengths[:, None], IDS, 0).astype(np.int32)
    padded = predict(published, token_ids, lengths)
    for row, length in enumerate(lengths):
        alone = predict(published, IDS[:, :length])
        for name, value in padded.items():
            assert same_bits(value[row], alone[name][row])
