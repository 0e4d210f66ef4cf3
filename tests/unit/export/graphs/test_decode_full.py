"""`decode_full` is `decode` with penalties, a bias and a least length, and tells what else was probable."""

import keras
import numpy as np
import pytest

from tests.unit.export.models import VOCABULARY
from tests.unit.export.published import END, IDS, OFF, ROWS, UNIFORMS, listed, same_bits

RNG = np.random.default_rng(1)
STEPS = UNIFORMS.shape[1]
LAST = VOCABULARY - 3  # The fixtures' tokenizer ends there: the two ids above are never drawn.
SEEN = np.array([np.bincount(row, minlength=VOCABULARY) > 0 for row in IDS]).astype(np.float32)
COUNTS = SEEN * RNG.integers(0, 4, SEEN.shape)
BIAS = np.where(RNG.random(SEEN.shape) < 0.5, RNG.normal(0, 1, SEEN.shape), 0).astype(np.float32)
PENALTIES = {"presence_penalty": 0.7, "frequency_penalty": 0.4, "repetition_penalty": 1.3}
SINGLE = [{"presence_penalty": 1.5}, {"frequency_penalty": -0.6}, {"repetition_penalty": 1.5}]
SINGLE += [{"repetition_penalty": 0.7}, {"bias": BIAS}]
ALL = {**PENALTIES, "bias": BIAS}
CONTROLS = [{}, {"temperature": 0.0}, {"top_k": 3}, {"top_p": 0.5}, {"min_p": 0.2}]


def biased(token_id, value):
    """Return a bias on one id, the same for every row."""
    bias = np.zeros((ROWS, VOCABULARY), np.float32)
    bias[:, token_id] = value
    return bias


@pytest.mark.parametrize("controls", CONTROLS, ids=str)
def test_with_everything_off_it_is_decode_to_the_bit(stack, controls):
    """Tokens, log probabilities and state are `decode`'s, whether lists are empty or hold what no penalty asks for."""
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
def test_a_row_does_not_depend_on_what_its_neighbours_ask_for(ending, company):
    """Half of the rows ask for something: the others have the bits of a call in which nobody does."""
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
def test_forty_calls_of_one_step_are_one_call_of_forty(stack, controls):
    """Whoever counts between the calls what the graph counts within one gets the same bits."""
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


@pytest.mark.parametrize("rows", [16, 64])
def test_a_row_has_the_same_bits_in_a_larger_call(stack, rows):
    """At multiples of 8 rows a sequence does not depend on how many others there are."""
    _, published = stack
    state = published.read(IDS[:, :-1])
    eight = published.draw_full(IDS[:, -1], state, UNIFORMS, counts=COUNTS, seen=SEEN, **ALL)
    which = np.arange(rows)[::-1] % ROWS
    tables = {"counts": COUNTS[which], "seen": SEEN[which], "bias": BIAS[which]}
    many = published.draw_full(IDS[which, -1], state[which], UNIFORMS[which], **tables, **PENALTIES)
    for name, value in many.items():
        assert same_bits(value, eight[name][which])


def adjusted(logits, counts, seen, bias=0.0, presence_penalty=0.0, frequency_penalty=0.0, repetition_penalty=1.0):
    """Apply the formulas as they are written in the papers and manuals, to one row."""
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
    """From Keras's logits a few lines of numpy choose the same tokens, and others than without the penalty."""
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


def test_a_bias_of_100_draws_a_token_always_and_of_minus_100_never(published):
    """As OpenAI says of `logit_bias`; what is never drawn stays so."""
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


def test_the_end_token_waits_for_min_steps_and_no_longer(ending):
    """A row whose next token would always be the end token ends after that many tokens and the mark."""
    state = ending.read(IDS[:, :-1])
    min_steps = np.array([0, 1, 2, 5, 8, 23, 24, 1000])
    drawn = ending.draw_full(IDS[:, -1], state, UNIFORMS, bias=biased(END, 100), min_steps=min_steps)["token_ids"]
    for row, count in enumerate(min_steps):
        assert END not in drawn[row, :count]
        if count < STEPS:
            assert drawn[row, count] == END
            assert not drawn[row, count + 1 :].any()


def test_the_end_token_waits_also_where_the_lists_are_empty(ending):
    """A flat distribution and evenly spread uniforms draw the end token at once, and with `min_steps` they do not."""
    rows = 64
    state, last = ending.read(np.tile(IDS[:1, :-1], (rows, 1))), np.tile(IDS[:1, -1], rows)
    uniforms = np.linspace(0, 1, rows, endpoint=False, dtype=np.float32)[:, None]
    assert END in ending.draw_full(last, state, uniforms, temperature=5.0)["token_ids"]
    assert END not in ending.draw_full(last, state, uniforms, temperature=5.0, min_steps=1)["token_ids"]


def test_min_steps_in_calls_of_one_step_are_those_of_one_call(ending):
    """Whoever takes off what was drawn gets the same text; penalties on the end token itself count as any."""
    state, last = ending.read(IDS[:, :-1]), IDS[:, -1]
    counts, seen, bias = COUNTS.copy(), SEEN.copy(), biased(END, -1)
    counts[:, END], seen[:, END] = 1, 1
    min_steps = np.array([0, 3, 6, 9, 12, 15, 18, 21])
    options = {**PENALTIES, "bias": bias}
    whole = ending.draw_full(last, state, UNIFORMS, counts=counts, seen=seen, min_steps=min_steps, **options)
    steps = np.ones(ROWS)
    for step in range(STEPS):
        column, rest = UNIFORMS[:, step : step + 1], np.maximum(min_steps - step, 0)
        piece = ending.draw_full(last, state, column, steps=steps, counts=counts, seen=seen, min_steps=rest, **options)
        last, state = piece["token_ids"][:, 0], piece["state"]
        assert same_bits(last, whole["token_ids"][:, step])
        steps[last == END] = 0
        active = np.flatnonzero(steps)
        counts[active, last[active]] += 1
        seen[active, last[active]] = 1
    assert same_bits(state, whole["state"])
    assert 0 < steps.sum() < ROWS


def test_min_steps_mean_nothing_to_a_model_without_end_token(published):
    """No id is kept back where none ends a text."""
    state = published.read(IDS[:, :-1])
    plain = published.draw_full(IDS[:, -1], state, UNIFORMS)
    for name, value in published.draw_full(IDS[:, -1], state, UNIFORMS, min_steps=STEPS).items():
        assert same_bits(value, plain[name])


def test_the_top_five_are_the_models_own(stack):
    """Whatever is asked for, they are the highest of Keras's log probabilities, falling, and `score`'s to the bit."""
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
    np.testing.assert_allclose(drawn["top_logprobs"], -np.sort(-expected, axis=2)[:, :, :5], atol=1e-4)
    np.testing.assert_allclose(
        np.take_along_axis(expected, drawn["top_token_ids"], 2), drawn["top_logprobs"], atol=1e-4
    )


def test_a_drawn_token_has_one_log_probability(stack):
    """Its own is the very float that stands among the five; clients compare them."""
    _, published = stack
    drawn = published.draw_full(IDS[:, -1], published.read(IDS[:, :-1]), UNIFORMS, bias=BIAS)
    among = drawn["top_token_ids"] == drawn["token_ids"][:, :, None]
    assert 0 < among.sum() < ROWS * STEPS
    own = np.broadcast_to(drawn["logprobs"][:, :, None], among.shape)
    assert same_bits(drawn["top_logprobs"][among], own[among])


def test_a_row_stops_after_its_steps(stack):
    """Fewer steps give the beginning of the longer text, zeros after it, and the state of a shorter call."""
    _, published = stack
    state = published.read(IDS[:, :-1])
    options = {"counts": COUNTS, "seen": SEEN, **ALL}
    whole = published.draw_full(IDS[:, -1], state, UNIFORMS, **options)
    steps = np.array([0, 1, 2, 3, 5, 8, 13, 24])
    short = published.draw_full(IDS[:, -1], state, UNIFORMS, steps=steps, **options)
    for row, count in enumerate(steps):
        for name in short.keys() - {"state"}:
            assert same_bits(short[name][row, :count], whole[name][row, :count])
            assert not short[name][row, count:].any()
        if count:
            alone = published.draw_full(IDS[:, -1], state, UNIFORMS[:, :count], **options)["state"][row]
            assert same_bits(short["state"][row], alone)
    assert same_bits(short["state"][0], state[0])


def test_neither_order_nor_padding_of_the_lists_matters(published):
    """Ids may come in any order, and zeros after them change nothing."""
    state = published.read(IDS[:, :-1])
    expected = published.draw_full(IDS[:, -1], state, UNIFORMS, counts=COUNTS, seen=SEEN, **ALL)

    def turned(*tables):
        return {name: np.pad(table[:, ::-1], [[0, 0], [2, 5]]) for name, table in listed(*tables).items()}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.unit.export.published.listed", turned)
        drawn = published.draw_full(IDS[:, -1], state, UNIFORMS, counts=COUNTS, seen=SEEN, **ALL)
    for name, value in drawn.items():
        assert same_bits(value, expected[name])
