"""`decode_full` is `decode` with penalties, bias, `min_steps` and the most probable tokens of each step."""

import keras
import numpy as np
import pytest

from export.graphs import signatures
from tests.unit.export.models import VOCABULARY
from tests.unit.export.published import END, IDS, OFF, ROWS, UNIFORMS, listed, same_bits

RNG = np.random.default_rng(1)
STEPS = UNIFORMS.shape[1]
LAST = VOCABULARY - 3  # The fixtures' tokenizer ends there: the two ids above are never sampled.
SEEN = np.array([np.bincount(row, minlength=VOCABULARY) > 0 for row in IDS]).astype(np.float32)
COUNTS = SEEN * RNG.integers(0, 4, SEEN.shape)
BIAS = np.where(RNG.random(SEEN.shape) < 0.5, RNG.normal(0, 1, SEEN.shape), 0).astype(np.float32)
PENALTIES = {"presence_penalty": 0.7, "frequency_penalty": 0.4, "repetition_penalty": 1.3}
SINGLE = [{"presence_penalty": 1.5}, {"frequency_penalty": -0.6}, {"repetition_penalty": 1.5}]
SINGLE += [{"repetition_penalty": 0.7}, {"bias": BIAS}]
ALL = {**PENALTIES, "bias": BIAS}
CONTROLS = [{}, {"temperature": 0.0}, {"top_k": 3}, {"top_p": 0.5}, {"min_p": 0.2}]


def biased(token_id, value):
    bias = np.zeros((ROWS, VOCABULARY), np.float32)
    bias[:, token_id] = value
    return bias


@pytest.mark.parametrize("controls", CONTROLS, ids=str)
def test_with_everything_off_decode_full_is_bit_exact_to_decode(stack, controls):
    _, published = stack
    state = published.read(IDS[:, :-1])
    plain = published.draw(IDS[:, -1], state, UNIFORMS, **controls)
    for tables in ({}, {"counts": COUNTS, "seen": SEEN}):
        full = published.draw_full(IDS[:, -1], state, UNIFORMS, **tables, **controls)
        for name, value in plain.items():
            assert same_bits(full[name], value)


@pytest.mark.parametrize(
    "company", [*SINGLE, {"bias": biased(END, 100)}, {"min_steps": 9}, {"temperature": 0.0}], ids=" ".join
)
def test_options_of_other_sequences_of_the_batch_change_no_bit(ending, company):
    state = ending.read(IDS[:, :-1])
    tables = {"counts": COUNTS, "seen": SEEN}
    plain = ending.draw_full(IDS[:, -1], state, UNIFORMS, **tables)
    alone = ending.draw_full(IDS[:, -1], state, UNIFORMS, **tables, **company)
    ((name, value),) = company.items()
    off = {**OFF, "bias": 0.0, "temperature": 0.9}[name]
    mixed_value = np.repeat([off, value], 4) if np.ndim(value) == 0 else np.concatenate([value[:4] * off, value[4:]])
    mixed = ending.draw_full(IDS[:, -1], state, UNIFORMS, **tables, **{name: mixed_value})
    for output, values in mixed.items():
        assert same_bits(values[:4], plain[output][:4])
        assert same_bits(values[4:], alone[output][4:])
    assert not np.array_equal(mixed["token_ids"][4:], plain["token_ids"][4:])


@pytest.mark.parametrize("controls", [{}, {"temperature": 0.0}, {"top_p": 0.7}], ids=str)
def test_forty_calls_of_one_step_are_bit_exact_to_one_call_of_forty(stack, controls):
    _, published = stack
    state, last = published.read(IDS[:, :-1]), IDS[:, -1]
    uniforms = RNG.random((ROWS, 40), dtype=np.float32)
    counts, seen = COUNTS.copy(), SEEN.copy()
    whole = published.draw_full(last, state, uniforms, counts=counts, seen=seen, **ALL, **controls)
    for step in range(40):
        piece = published.draw_full(
            last, state, uniforms[:, step : step + 1], counts=counts, seen=seen, **ALL, **controls
        )
        last, state = piece["token_ids"][:, 0], piece["state"]
        counts[range(ROWS), last] += 1
        seen[range(ROWS), last] = 1
        for name in piece.keys() - {"state"}:
            assert same_bits(piece[name][:, 0], whole[name][:, step])
    assert same_bits(state, whole["state"])


def adjusted(logits, counts, seen, bias=0.0, presence_penalty=0.0, frequency_penalty=0.0, repetition_penalty=1.0):
    """Apply the formulas of papers and manuals to the logits of one sequence."""
    logits = logits.copy()
    for i in np.flatnonzero(seen):
        logits[i] = logits[i] / repetition_penalty if logits[i] > 0 else logits[i] * repetition_penalty
    for i in np.flatnonzero(counts):
        logits[i] = logits[i] - presence_penalty - counts[i] * frequency_penalty
    logits += bias
    logits[[0, 1, END, *range(LAST + 1, VOCABULARY)]] = -np.inf
    return logits


@pytest.mark.parametrize("penalties", [*SINGLE, ALL], ids=" ".join)
def test_penalties_follow_their_formulas(stack, penalties):
    model, published = stack
    state = published.read(IDS[:, :-1])
    controls = {"counts": COUNTS, "seen": SEEN, "temperature": np.repeat([0.0, 0.9], 4)}
    drawn = published.draw_full(IDS[:, -1], state, UNIFORMS, **controls, **penalties)["token_ids"]
    text = np.concatenate([IDS, drawn[:, :-1]], axis=1)
    logits = model.predict(text, verbose=0)[:, IDS.shape[1] - 1 :].astype(np.float64)
    for row in range(ROWS):
        counts, seen = COUNTS[row].copy(), SEEN[row].copy()
        own = {name: value if np.ndim(value) == 0 else value[row] for name, value in penalties.items()}
        for step in range(STEPS):
            final = adjusted(logits[row, step], counts, seen, **own)
            cumulative = np.cumsum(np.exp((final - final.max()) / 0.9))
            sampled = np.searchsorted(cumulative, UNIFORMS[row, step] * cumulative[-1], side="right")
            expected = final.argmax() if row < 4 else sampled
            assert drawn[row, step] == expected
            counts[expected] += 1
            seen[expected] = 1
    assert not np.array_equal(drawn, published.draw_full(IDS[:, -1], state, UNIFORMS, **controls)["token_ids"])


def test_a_bias_of_100_forces_a_token_and_of_minus_100_bans_it(published):
    """OpenAI documents `logit_bias` so. No bias makes a special token possible."""
    state = published.read(IDS[:, :-1])
    always = published.draw_full(IDS[:, -1], state, UNIFORMS, bias=biased(7, 100))
    assert (always["token_ids"] == 7).all()
    plain = published.draw_full(IDS[:, -1], state, UNIFORMS)["token_ids"]
    banned = np.bincount(plain.ravel()).argmax()
    never = published.draw_full(IDS[:, -1], state, UNIFORMS, bias=biased(banned, -100))
    assert banned not in never["token_ids"]
    for impossible in (0, 1, END, LAST + 1):
        drawn = published.draw_full(IDS[:, -1], state, UNIFORMS, bias=biased(impossible, 100))["token_ids"]
        assert same_bits(drawn, plain)


def test_the_eos_token_is_banned_for_exactly_min_steps(ending):
    state = ending.read(IDS[:, :-1])
    min_steps = np.array([0, 1, 2, 5, 8, 23, 24, 1000])
    drawn = ending.draw_full(IDS[:, -1], state, UNIFORMS, bias=biased(END, 100), min_steps=min_steps)["token_ids"]
    for row, count in enumerate(min_steps):
        assert END not in drawn[row, :count]
        if count < STEPS:
            assert drawn[row, count] == END
            assert not drawn[row, count + 1 :].any()


def test_min_steps_have_no_effect_without_an_eos_token(published):
    state = published.read(IDS[:, :-1])
    plain = published.draw_full(IDS[:, -1], state, UNIFORMS)
    for name, value in published.draw_full(IDS[:, -1], state, UNIFORMS, min_steps=STEPS).items():
        assert same_bits(value, plain[name])


def test_the_top_log_probabilities_ignore_the_sampling_options(stack):
    model, published = stack
    state = published.read(IDS[:, :-1])
    tables = {"counts": COUNTS, "seen": SEEN}
    drawn = published.draw_full(IDS[:, -1], state, UNIFORMS, top_k=2, temperature=0.5, **tables, **ALL)
    text = np.concatenate([IDS[:, -1:], drawn["token_ids"]], axis=1)
    scored = published.call("score", token_ids=text, lengths=np.full(ROWS, STEPS, np.int32), state=state)
    for name, value in scored.items():
        assert same_bits(drawn[name], value)
    whole = np.concatenate([IDS[:, :-1], text[:, :-1]], axis=1)
    expected = keras.ops.log_softmax(model.predict(whole, verbose=0)).numpy()[:, IDS.shape[1] - 1 :]
    np.testing.assert_allclose(drawn["top_logprobs"], -np.sort(-expected, axis=2)[:, :, :50], atol=1e-4)
    np.testing.assert_allclose(
        np.take_along_axis(expected, drawn["top_token_ids"], 2), drawn["top_logprobs"], atol=1e-4
    )


def test_order_and_padding_of_the_lists_change_no_bit(published):
    state = published.read(IDS[:, :-1])
    expected = published.draw_full(IDS[:, -1], state, UNIFORMS, counts=COUNTS, seen=SEEN, **ALL)

    def turned(*tables):
        return {name: np.pad(table[:, ::-1], [[0, 0], [2, 5]]) for name, table in listed(*tables).items()}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.unit.export.published.listed", turned)
        drawn = published.draw_full(IDS[:, -1], state, UNIFORMS, counts=COUNTS, seen=SEEN, **ALL)
    for name, value in drawn.items():
        assert same_bits(value, expected[name])


def test_top_log_probabilities_are_zero_if_no_sequence_needs_them(stack):
    _, published = stack
    state = published.read(IDS[:, :-1])
    few = np.arange(ROWS) * 3 // (ROWS - 1)
    with_top, without, some = (
        published.draw_full(IDS[:, -1], state, UNIFORMS, num_top=num_top) for num_top in (50, 0, few)
    )
    for name, values in with_top.items():
        if name.startswith("top_"):
            assert not without[name].any()
            assert values.shape[-1] == signatures.num_top_of(VOCABULARY)
            assert same_bits(some[name][..., :3], values[..., :3])
            assert not some[name][..., 3:].any()
        else:
            assert same_bits(some[name], values)
            assert same_bits(without[name], values)
