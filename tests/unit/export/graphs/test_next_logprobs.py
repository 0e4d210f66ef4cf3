"""`next_logprobs` returns the log probabilities of all tokens after each sequence, and after what is most probable."""

import heapq

import numpy as np
import pytest

from contract.signatures import FINAL_ROW, FORBIDDEN
from tests.unit.export.models import VOCABULARY
from tests.unit.export.published import END, IDS, ROWS, UNIFORMS, same_bits

ANY_TOKEN = np.zeros((1, VOCABULARY), np.int32)


def predict(published, token_ids, lengths=None, state=None, *, num_ahead=0, logprob=None, row=0, transitions=ANY_TOKEN):
    """Return what follows the last token, or, with `num_ahead`, all outputs."""
    outputs = published.call(
        "next_logprobs",
        token_ids=token_ids,
        lengths=np.full(len(token_ids), token_ids.shape[1], np.int32) if lengths is None else lengths,
        state=published.zeros(len(token_ids)) if state is None else state,
        num_ahead=np.full(len(token_ids), num_ahead, np.int32),
        logprob=np.zeros(len(token_ids), np.float32) if logprob is None else logprob,
        row=np.full(len(token_ids), row, np.int32),
        transitions=transitions,
    )
    return outputs if num_ahead else {"logprobs": outputs["logprobs"][:, 0], "state": outputs["state"]}


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


def appended(outputs):
    """Return (parent, token) of each appended token, in order, with the log probabilities after each sequence."""
    flat = {name: outputs[name].swapaxes(0, 1) for name in ("parents", "token_ids", "logprobs")}
    pairs = list(zip(flat["parents"].ravel().tolist(), flat["token_ids"].ravel().tolist(), strict=True))
    return pairs, flat["logprobs"].reshape(-1, VOCABULARY)


def test_each_step_expands_the_most_probable_sequences_of_all(stack):
    _, published = stack
    logprob = np.array([-1, 0, *[-np.inf] * (ROWS - 2)], np.float32)
    pairs, logprobs = appended(predict(published, IDS, num_ahead=3, logprob=logprob))
    totals, taken = logprob.astype(float).tolist(), set()
    assert pairs[:ROWS] == [(-1, 0)] * ROWS
    for start in range(ROWS, len(pairs), ROWS):
        every = {
            (parent, token_id): total + float(logprobs[parent, token_id])
            for parent, total in enumerate(totals)
            for token_id in range(3, VOCABULARY - 2)
            if (parent, token_id) not in taken
        }
        here = pairs[start : start + ROWS]
        best = heapq.nlargest(ROWS, every.values())
        assert [every[pair] for pair in here] == pytest.approx(best, abs=1e-4)
        taken |= set(here)
        totals += [every[pair] for pair in here]
    assert len(taken) == 3 * ROWS
    assert END not in {token_id for _, token_id in taken}


def test_what_is_appended_has_the_same_bits_as_in_calls_of_its_own(stack):
    _, published = stack
    pairs, logprobs = appended(predict(published, IDS, num_ahead=3))
    states, last = [published.read(IDS)], []
    for step in range(1, 4):
        parents, token_ids = np.array(pairs[step * ROWS : (step + 1) * ROWS], np.int32).T
        last = predict(published, token_ids[:, None], state=np.concatenate(states)[parents])
        states.append(last["state"])
        assert same_bits(last["logprobs"], logprobs[step * ROWS : (step + 1) * ROWS])


def test_tokens_that_end_a_match_or_are_forbidden_are_not_expanded(stack):
    """With one token left there are fewer sequences than slots, and what was not appended has no parent."""
    _, published = stack
    transitions = np.full((4, VOCABULARY), FORBIDDEN, np.int32)
    transitions[2, [5, 6, 7]] = [3, FINAL_ROW, 2]
    transitions[3, 8] = FINAL_ROW
    logprob = np.array([0, *[-np.inf] * (ROWS - 1)], np.float32)
    pairs, _ = appended(predict(published, IDS, num_ahead=2, logprob=logprob, row=2, transitions=transitions))
    found = [pair for pair in pairs if pair[0] >= 0]
    assert sorted(found[:2]) == [(0, 5), (0, 7)]
    after = ROWS + found.index((0, 7))
    assert sorted(found[2:]) == [(after, 5), (after, 7)]
