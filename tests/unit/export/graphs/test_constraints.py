"""The transition table of `decode_full`: sequences follow their automaton, end with it, and are steered to a match."""

import numpy as np
import pytest

from contract.signatures import FINAL_ROW, FORBIDDEN, FORBIDDEN_DISTANCE, NO_CONTINUATION, ROW_BITS, UNCONSTRAINED_ROW
from tests.unit.export.models import VOCABULARY
from tests.unit.export.published import END, IDS, ROWS, UNIFORMS, same_bits

STEPS = UNIFORMS.shape[1]
A, B = 5, 9
LOOP, TAIL = 2, 3  # Rows of `table`.
CONTINUATIONS = (0, NO_CONTINUATION, 2, 1)


def entry(row, distance=0):
    return distance << ROW_BITS | row


def table():
    """Return the transitions of (A|B)*AB, in which each B after an A may end the match and A alone leads there."""
    transitions = np.full((4, VOCABULARY), FORBIDDEN, np.int32)
    transitions[UNCONSTRAINED_ROW] = UNCONSTRAINED_ROW
    transitions[LOOP, B], transitions[LOOP, A] = entry(LOOP, 2), entry(TAIL, 1)
    transitions[TAIL, A], transitions[TAIL, B] = entry(TAIL, 1), entry(FINAL_ROW)
    return transitions


def draw(published, **options):
    """Sample after IDS, all sequences in the row LOOP unless options say otherwise."""
    state = published.read(IDS[:, :-1])
    return published.draw_full(
        IDS[:, -1], state, UNIFORMS, **{"transitions": table(), "continuations": CONTINUATIONS, "row": LOOP, **options}
    )


def test_sampled_tokens_follow_the_table_and_end_in_the_final_row(stack):
    _, published = stack
    drawn = draw(published)
    lengths = []
    for tokens, state, number in zip(drawn["token_ids"].tolist(), drawn["state"], range(ROWS), strict=True):
        text = "".join({A: "a", B: "b", 0: "."}[token] for token in tokens)
        match = text.rstrip(".")
        assert set(match) <= {"a", "b"}
        assert match.find("ab") in (-1, len(match) - 2)
        assert match.endswith("ab") or len(match) == STEPS
        processed = np.array([[IDS[number, -1], *tokens[: len(match) - 1]]] * ROWS, np.int32)
        expected = published.read(processed, published.read(IDS[:, :-1]))
        assert same_bits(state, expected[number])
        lengths.append(len(match))
    assert len(set(lengths)) > 1


def test_the_rows_of_a_call_may_differ_and_change_no_bit_of_each_other(stack):
    _, published = stack
    rows = np.array([UNCONSTRAINED_ROW, LOOP] * (ROWS // 2))
    mixed, constrained = draw(published, row=rows), draw(published)
    free = draw(published, row=UNCONSTRAINED_ROW)
    plain = published.draw_full(IDS[:, -1], published.read(IDS[:, :-1]), UNIFORMS)
    for name, values in mixed.items():
        assert same_bits(free[name], plain[name])
        assert same_bits(values[::2], plain[name][::2])
        assert same_bits(values[1::2], constrained[name][1::2])


@pytest.mark.parametrize("budget", [2, 3, 4, 7])
def test_a_sequence_completes_its_match_within_its_budget(stack, budget):
    _, published = stack
    bias = np.zeros((ROWS, VOCABULARY), np.float32)
    bias[:, A] = -30
    drawn = draw(published, budget=budget, steps=budget, bias=bias)["token_ids"].tolist()
    for tokens in drawn:
        assert tokens[:budget] == [B] * (budget - 2) + [A, B]


@pytest.mark.parametrize("budget", [1, 2, 3, 4, 5, 6, 7])
def test_a_sequence_ends_where_the_budget_allows_no_longer_match(stack, budget):
    _, published = stack
    transitions = np.full((5, VOCABULARY), FORBIDDEN, np.int32)
    transitions[UNCONSTRAINED_ROW] = UNCONSTRAINED_ROW
    transitions[2, A], transitions[3, B], transitions[4, B] = entry(3), entry(4, 2), entry(2, 1)
    options = {"transitions": transitions, "continuations": (0, NO_CONTINUATION, 1, 3, 2), "steps": budget}
    drawn = draw(published, budget=budget, **options)
    # After A a match is complete; the next one is three tokens later.
    length = 1 + (budget - 1) // 3 * 3
    text = [A, B, B] * 3
    for number, (tokens, state) in enumerate(zip(drawn["token_ids"].tolist(), drawn["state"], strict=True)):
        assert tokens[:length] == text[:length]
        assert not any(tokens[length:])
        processed = np.array([[IDS[number, -1], *text[: length - 1]]] * ROWS, np.int32)
        expected = published.read(processed, published.read(IDS[:, :-1]))
        assert same_bits(state, expected[number])


def test_without_a_budget_a_sequence_may_stay_incomplete(stack):
    """The budget that is no limit: B alone for all steps, though no match is near."""
    _, published = stack
    bias = np.zeros((ROWS, VOCABULARY), np.float32)
    bias[:, A] = -30
    assert set(draw(published, budget=FORBIDDEN_DISTANCE, bias=bias)["token_ids"].ravel().tolist()) == {B}


def test_two_calls_are_bit_exact_to_one(stack):
    _, published = stack
    budget, first = 12, 5
    whole = draw(published, budget=budget, steps=budget)
    state = published.read(IDS[:, :-1])
    options = {"transitions": table(), "continuations": CONTINUATIONS, "budget": budget, "row": LOOP}
    start = published.draw_full(IDS[:, -1], state, UNIFORMS[:, :first], **options)
    rows, lasts = [], []
    for tokens in start["token_ids"].tolist():
        row = LOOP
        for token in tokens:
            row = row if row == FINAL_ROW else int(table()[row, token]) & 0xFFFF
        rows.append(row)
        lasts.append(tokens[-1])
    ended = np.array(rows) == FINAL_ROW
    options |= {"budget": budget - first, "row": np.where(ended, UNCONSTRAINED_ROW, rows)}
    rest = published.draw_full(np.array(lasts, np.int32), start["state"], UNIFORMS[:, first:budget], **options)
    assert ended.any()
    assert not ended.all()
    for number in np.flatnonzero(~ended):
        joined = np.concatenate([start["token_ids"][number], rest["token_ids"][number]])
        assert same_bits(joined, whole["token_ids"][number, :budget])
        assert same_bits(rest["state"][number], whole["state"][number])


def test_the_end_token_is_allowed_only_where_the_table_allows_it(ending):
    """A model with an end token samples it after B and nowhere else, however probable it is."""
    transitions = table()
    transitions[LOOP, END] = entry(FINAL_ROW)
    transitions[LOOP, A] = FORBIDDEN
    bias = np.zeros((ROWS, VOCABULARY), np.float32)
    bias[:, END] = 3
    state = ending.read(IDS[:, :-1])
    drawn = ending.draw_full(
        IDS[:, -1],
        state,
        UNIFORMS,
        transitions=transitions,
        continuations=(0, NO_CONTINUATION, 1, 1),
        row=LOOP,
        bias=bias,
        min_steps=1,
    )
    for tokens in drawn["token_ids"].tolist():
        text = "".join({B: "b", END: "$", 0: "."}[token] for token in tokens)
        assert text.rstrip(".").rstrip("$").strip("b") == ""
        assert text[0] == "b"
        assert "$" in text
