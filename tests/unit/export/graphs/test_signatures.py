"""The signatures compute what Keras computes; a sequence is bit-exact whatever its slices and its batch."""

from functools import partial

import keras
import numpy as np
import pytest

from contract.machine import read_cpuinfo
from export.graphs.network import CELLS
from tests.unit.export.graphs.test_embed import embed
from tests.unit.export.graphs.test_next_logprobs import predict
from tests.unit.export.models import VOCABULARY, make_model
from tests.unit.export.published import END, IDS, ROWS, UNIFORMS, Published, same_bits


def test_serving_default_returns_the_logits_of_keras(stack):
    model, published = stack
    np.testing.assert_allclose(
        published.call("serving_default", token_ids=IDS)["logits"], model.predict(IDS, verbose=0), atol=1e-4
    )


def test_score_returns_the_log_probabilities_of_keras(stack):
    model, published = stack
    expected = keras.ops.log_softmax(model.predict(IDS[:, :-1], verbose=0)).numpy()
    scored = published.call("score", token_ids=IDS, lengths=np.full(ROWS, 19, np.int32), state=published.zeros())
    picked = np.take_along_axis(expected, IDS[:, 1:, None], 2)[:, :, 0]
    np.testing.assert_allclose(scored["logprobs"], picked, atol=1e-4)
    best = np.sort(expected, axis=2)[:, :, ::-1][:, :, :50]
    np.testing.assert_allclose(scored["top_logprobs"], best, atol=1e-4)
    top = np.take_along_axis(expected, scored["top_token_ids"], 2)
    np.testing.assert_allclose(top, best, atol=1e-4)


def test_score_returns_as_many_top_logprobs_as_a_sequence_needs(stack):
    _, published = stack
    inputs = {"token_ids": IDS, "lengths": np.full(ROWS, 19, np.int32), "state": published.zeros()}
    every, some, none = (
        published.call("score", **inputs, num_top=np.array([0] * (ROWS - 1) + [largest], np.int32))
        for largest in (50, 3, 0)
    )
    for name, values in every.items():
        count = 3 if name.startswith("top_") else None
        assert same_bits(some[name][..., :count], values[..., :count])
        assert same_bits(none[name], np.zeros_like(values) if count else values)
        assert count is None or not some[name][..., count:].any()


def test_prefill_decode_and_score_return_bit_exact_states(stack):
    _, published = stack
    state = published.read(IDS[:, :-1])
    for cut in (1, 7, 18):
        assert same_bits(published.read(IDS[:, cut:-1], published.read(IDS[:, :cut])), state)
    drawn = published.draw(IDS[:, -1], state, UNIFORMS)
    text = np.concatenate([IDS[:, -1:], drawn["token_ids"]], axis=1)
    assert same_bits(published.read(text[:, :-1], state), drawn["state"])
    scored = published.call("score", token_ids=text, lengths=np.full(ROWS, 24, np.int32), state=state)
    assert same_bits(scored["state"], drawn["state"])
    assert same_bits(scored["logprobs"], drawn["logprobs"])


@pytest.mark.parametrize("sizes", [[1] * 24, [4, 4, 16], [5, 3, 16], [16, 8]], ids=str)
def test_decode_calls_of_any_size_are_bit_exact_to_one_call(stack, sizes):
    _, published = stack
    state = published.read(IDS[:, :-1])
    whole = published.draw(IDS[:, -1], state, UNIFORMS)
    last, pieces, done = IDS[:, -1], [], 0
    for size in sizes:
        piece = published.draw(last, state, UNIFORMS[:, done : done + size])
        last, state, done = piece["token_ids"][:, -1], piece["state"], done + size
        pieces.append(piece["token_ids"])
    assert same_bits(np.concatenate(pieces, axis=1), whole["token_ids"])
    assert same_bits(state, whole["state"])


def test_a_sequence_stops_after_its_steps(stack):
    _, published = stack
    state = published.read(IDS[:, :-1])
    whole = published.draw(IDS[:, -1], state, UNIFORMS)
    steps = np.array([0, 1, 2, 3, 5, 8, 13, 24])
    short = published.draw(IDS[:, -1], state, UNIFORMS, steps=steps)
    for row, count in enumerate(steps):
        assert same_bits(short["token_ids"][row, :count], whole["token_ids"][row, :count])
        assert not short["token_ids"][row, count:].any()
        assert not short["logprobs"][row, count:].any()
        if count:
            alone = published.draw(IDS[:, -1], state, UNIFORMS[:, :count])["state"][row]
            assert same_bits(short["state"][row], alone)
    assert same_bits(short["state"][0], state[0])


def test_no_sequence_is_longer_than_its_call(published):
    state = published.read(IDS[:, :-1])
    whole, longer = (published.draw(IDS[:, -1], state, UNIFORMS, steps=steps) for steps in (24, 99))
    assert all(same_bits(longer[name], whole[name]) for name in whole)
    inputs = {"token_ids": IDS[:, :-1], "lengths": np.full(ROWS, 99, np.int32), "state": published.zeros()}
    assert same_bits(published.call("prefill", **inputs)["state"], state)


def test_padding_changes_no_bit_of_the_state(stack):
    _, published = stack
    lengths = np.array([0, 1, 5, 20, 19, 7, 3, 12], np.int32)
    token_ids = np.where(np.arange(20)[None] < lengths[:, None], IDS, 0).astype(np.int32)
    state = published.call("prefill", token_ids=token_ids, lengths=lengths, state=published.zeros())["state"]
    for row, length in enumerate(lengths):
        assert same_bits(state[row], published.read(IDS[:, :length])[row] if length else published.zeros()[row])


@pytest.mark.parametrize("cut", [1, 7, 19])
@pytest.mark.parametrize(
    ("read", "carried"), [(embed, {"state": "state", "total": "sum"}), (predict, {"state": "state"})]
)
def test_two_slices_are_bit_exact_to_one_call(stack, read, carried, cut):
    _, published = stack
    first = read(published, IDS[:, :cut])
    second = read(published, IDS[:, cut:], **{argument: first[name] for argument, name in carried.items()})
    for name, value in read(published, IDS).items():
        assert same_bits(second[name], value)


@pytest.mark.parametrize("read", [embed, predict])
def test_padding_changes_no_bit(stack, read):
    _, published = stack
    lengths = np.array([20, 1, 5, 20, 19, 7, 3, 12], np.int32)
    token_ids = np.where(np.arange(20)[None] < lengths[:, None], IDS, 0).astype(np.int32)
    padded = read(published, token_ids, lengths)
    for row, length in enumerate(lengths):
        alone = read(published, IDS[:, :length])
        for name, value in padded.items():
            assert same_bits(value[row], alone[name][row])


@pytest.mark.parametrize("rows", [16, 24, 64])
def test_a_sequence_is_bit_exact_in_a_larger_batch(stack, rows):
    """Without AVX-512 fewer batch sizes agree; a gateway's determinism probe finds them."""
    _, published = stack
    state = published.read(IDS[:, :-1])
    eight = published.draw(IDS[:, -1], state, UNIFORMS)
    which = np.arange(rows)[::-1] % ROWS
    many = published.draw(IDS[which, -1], published.read(IDS[which, :-1]), UNIFORMS[which])
    agree = same_bits if "avx512f" in read_cpuinfo().get("flags", "") else partial(np.allclose, atol=1e-5)
    for name, value in many.items():
        assert agree(value, eight[name][which])


@pytest.mark.parametrize(
    "company", [{"top_k": 3}, {"top_p": 0.5}, {"min_p": 0.2}, {"temperature": 0.0}, {"temperature": 2.0}], ids=str
)
def test_sampling_parameters_of_other_sequences_change_no_token(published, company):
    state = published.read(IDS[:, :-1])
    plain = published.draw(IDS[:, -1], state, UNIFORMS)
    (name, value), defaults = *company.items(), {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "temperature": 0.9}
    column = [defaults[name]] * 4 + [value] * 4
    mixed = published.draw(IDS[:, -1], state, UNIFORMS, **{name: column})
    assert same_bits(mixed["token_ids"][:4], plain["token_ids"][:4])
    alone = published.draw(IDS[:, -1], state, UNIFORMS, **company)
    assert same_bits(mixed["token_ids"][4:], alone["token_ids"][4:])


def test_special_tokens_and_ids_beyond_the_tokenizer_are_never_sampled(published):
    state = published.read(IDS[:, :-1])
    uniforms = np.linspace(0, 1, ROWS * 400, endpoint=False, dtype=np.float32).reshape(400, ROWS).T.copy()
    for controls in ({"temperature": 2.0}, {"temperature": 2.0, "top_k": 1000}, {"temperature": 0.0}):
        drawn = published.draw(IDS[:, -1], state, uniforms, **controls)["token_ids"]
        assert set(drawn.ravel()) <= set(range(3, VOCABULARY - 2))


def test_the_eos_token_ends_a_sequence(ending):
    state = ending.read(IDS[:, :-1])
    rng = np.random.default_rng(1)
    ended = 0
    for _ in range(20):
        uniforms = rng.random((ROWS, 24), dtype=np.float32)
        drawn = ending.draw(IDS[:, -1], state, uniforms, temperature=2.0)
        for row, token_ids in enumerate(drawn["token_ids"].tolist()):
            if END in token_ids:
                ended += 1
                count = token_ids.index(END) + 1
                assert not any(token_ids[count:])
                short = ending.draw(IDS[:, -1], state, uniforms[:, :count], temperature=2.0)
                assert same_bits(drawn["state"][row], short["state"][row])
    assert ended > 10


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[] if kind == "gru" else pytest.mark.slow) for kind in CELLS]
)
def test_logits_are_the_same_without_the_table_of_gate_inputs(kind, monkeypatch, tmp_path):
    """A large vocabulary has none, as the table would be too large."""
    monkeypatch.setattr("export.graphs.cells.MAX_TABLE_BYTES", 0)
    monkeypatch.setattr("export.graphs.cells.StatefulNetwork.unroll", 1)
    model = make_model(kind, 2)
    logits = Published(model, tmp_path).call("serving_default", token_ids=IDS)["logits"]
    # Rounding errors grow over twenty steps with large weights.
    np.testing.assert_allclose(logits, model.predict(IDS, verbose=0), atol=1e-4)
