"""Batch formation: which sequences the next call has, its batch size, and its steps."""

from dataclasses import replace

import numpy as np
import pytest

from service.scheduling.queues import (
    DECODES_BETWEEN_LONG_PREFILLS,
    FIRST_DECODE_STEPS,
    JOINING_DECODE_STEPS,
    MAX_WAIT_S,
    BatchLimits,
    ModelQueue,
    fit,
    fit_below,
    steps_for,
)
from service.scheduling.sampling_inputs import SamplingParams
from service.scheduling.sequence import ModelVersion, SearchStep
from tests.fakes import make_sequence

LIMITS = BatchLimits(batch_sizes=(8, 16, 24, 32, 40, 48, 56, 64), max_steps=128, max_length=128)
PENALTY = SamplingParams(frequency_penalty=2.0)


@pytest.fixture
def queue():
    return ModelQueue(ModelVersion("demo", 1), LIMITS)


def add(queue, count, generated=(), **fields):
    sequences = [make_sequence(**{"max_tokens": 1000, **fields}) for _ in range(count)]
    queue.sequences.update(sequences)
    for sequence in sequences:
        if generated:
            sequence.advance(generated, sequence.state)
        queue.enqueue(sequence)
    return sequences


def add_running(queue, count, **fields):
    return add(queue, count, [5], **fields)


def add_prompts(queue, count, length=100, **fields):
    return add(queue, count, prompt_ids=np.ones(length, np.int32), **fields)


def complete(queue, call):
    """Apply a call, and enqueue its sequences again."""
    del queue.calls[call]
    for sequence in call.sequences:
        if call.is_decode:
            sequence.advance([5] * min(sequence.num_left, call.size), sequence.state)
        else:
            sequence.record_prefill(min(sequence.num_remaining_prompt_tokens, call.size), sequence.state)
        queue.enqueue(sequence)


def kind(call):
    if not call.is_decode:
        return "prefill"
    return "decode" if call.sequences[0].num_generated else "first decode"


def test_a_prefilled_prompt_decodes_at_once(queue):
    add_running(queue, 30)
    add_prompts(queue, 16)
    queue.num_decodes = 1
    first = queue.next_call(1, 1)
    add_prompts(queue, 8)
    complete(queue, first)
    second = queue.next_call(1, 1)
    assert (kind(second), second.sequences) == ("first decode", first.sequences)


@pytest.mark.parametrize(("arrived", "share", "starts"), [(1, 0, False), (2, 0.9, False), (2, 1, True), (3, 0, True)])
def test_prompts_wait_for_expected_ones_but_not_for_long(queue, arrived, share, starts):
    """Three sequences have ended, so three prompts are expected to share a prefill call."""
    for _ in range(3):
        queue.expect_prompt(100.0)
    queue.sequences_arrived(arrived, 100.0)
    add_prompts(queue, arrived, accepted_at=100.0)
    call = queue.next_call(2, 2, 100.0 + share * MAX_WAIT_S)
    assert (call is not None) == starts
    assert call is None or len(call.sequences) == arrived


def test_a_prompt_does_not_wait_again_and_again(queue):
    add_prompts(queue, 1, accepted_at=100.0)
    queue.expect_prompt(100.0 + 0.9 * MAX_WAIT_S)
    assert queue.next_call(2, 2, 100.0 + 0.95 * MAX_WAIT_S) is None
    assert kind(queue.next_call(2, 2, 100.0 + MAX_WAIT_S)) == "prefill"


def test_a_prompt_of_several_calls_waits_only_before_the_first(queue):
    queue.expect_prompt(100.0)
    add_prompts(queue, 1, accepted_at=100.0)
    add_prompts(queue, 1, length=1000, accepted_at=90.0)
    assert len(queue.next_call(1, 2, 100.0).sequences) == 2


@pytest.mark.parametrize("signatures", [("prefill",), ("prefill", "score")])
def test_a_full_batch_of_prompts_waits_for_no_other(queue, signatures):
    """A ninth prompt would need another call."""
    for _ in range(16):
        queue.expect_prompt(100.0)
    for signature in signatures:
        add_prompts(queue, 8 // len(signatures), accepted_at=100.0, prefill_signature=signature)
    assert kind(queue.next_call(1, 2, 100.0)) == "prefill"


def test_running_sequences_decode_while_prompts_wait(queue):
    queue.expect_prompt(100.0)
    add_running(queue, 8)
    add_prompts(queue, 1, accepted_at=100.0)
    assert kind(queue.next_call(1, 2, 100.0)) == "decode"


def test_prompts_that_did_not_come_are_no_longer_expected(queue):
    """An arrival counts for a deadline that has not passed."""
    for now in (100.0, 200.0):
        queue.expect_prompt(now)
    queue.sequences_arrived(1, 200.0)
    assert not queue.expected


@pytest.mark.parametrize(
    ("num_long", "num_new", "num_decodes"), [(0, 1, 1), (1, 0, DECODES_BETWEEN_LONG_PREFILLS), (1, 1, 1), (8, 0, 1)]
)
def test_a_long_prompt_takes_turns_with_several_decode_calls(queue, num_long, num_new, num_decodes):
    add_running(queue, 64)
    for sequence in add_prompts(queue, num_long, length=1000):
        sequence.record_prefill(128, sequence.state)
    add_prompts(queue, num_new)
    kinds = []
    for _ in range(num_decodes + 1):
        kinds.append(kind(call := queue.next_call(1, 1)))
        complete(queue, call)
    assert kinds == ["decode"] * num_decodes + ["prefill"]


@pytest.mark.parametrize("max_calls", [1, 2, 3])
def test_running_sequences_continue_however_many_new_ones_arrive(queue, max_calls):
    add_running(queue, 64)
    kinds = []
    for _ in range(60):
        add(queue, 8)
        add_prompts(queue, 8)
        while len(queue.calls) < max_calls:
            kinds.append(kind(queue.next_call(max_calls - len(queue.calls), max_calls)))
        complete(queue, min(queue.calls, key=lambda call: call.size))
    assert set(kinds) == {"first decode", "prefill", "decode"}
    assert max(np.diff([number for number, name in enumerate(kinds) if name == "decode"])) == 3


def test_a_prefill_uses_the_call_that_decode_leaves_free(queue):
    """Running sequences may wait for a larger batch; a call does not stay idle for that while there is a prompt."""
    add_running(queue, 3)
    queue.next_call(2, 2)
    add_running(queue, 3)
    add_prompts(queue, 1)
    assert kind(queue.next_call(1, 2)) == "prefill"


def test_every_free_call_prefills_if_no_sequence_can_decode(queue):
    add_prompts(queue, 30)
    calls = [queue.next_call(2, 2), queue.next_call(1, 2)]
    assert [(kind(call), len(call.sequences)) for call in calls] == [("prefill", 16), ("prefill", 14)]
    assert queue.next_call(1, 3) is None


def test_prompts_are_prefilled_without_padding_while_others_run(queue):
    add_prompts(queue, 11)
    add_running(queue, 8)
    queue.num_decodes = 1
    assert len(queue.next_call(1, 2).sequences) == 8
    assert len(queue.prefilling) == 3


def test_a_prefill_call_has_one_signature_and_one_set_of_activations(queue):
    fields = {"prefill_signature": "inspect", "max_tokens": 0}
    first = add_prompts(queue, 2, **fields, requested_activations=(("hidden_1", 512),))
    add_prompts(queue, 2)
    add_prompts(queue, 2, **fields, requested_activations=(("cell_1", 512),))
    first += add_prompts(queue, 1, **fields, requested_activations=(("hidden_1", 512),))
    call = queue.next_call(1, 2)
    assert (call.signature, call.sequences) == ("inspect", tuple(first))


@pytest.mark.parametrize(("count", "length", "shape"), [(1, 30, (8, 29)), (8, 1000, (8, 128)), (60, 1000, (64, 64))])
def test_a_prefill_call_ends_with_the_longest_prompt_or_at_its_limit(queue, count, length, shape):
    add_prompts(queue, count, length)
    call = queue.next_call(1, 1)
    assert (call.batch_size, call.size) == shape


def test_an_inspect_call_returns_at_most_16_mib_of_activations(queue):
    add_prompts(queue, 8, 1000, prefill_signature="inspect", max_tokens=0, requested_activations=(("hidden_1", 6000),))
    call = queue.next_call(1, 1)
    assert call.batch_size * call.size * 6000 * 4 <= 2**24 < call.batch_size * (call.size + 1) * 6000 * 4
    assert dict(call.output_shapes())["hidden_1"] == (call.batch_size, call.size, 6000)


def test_sequences_that_fit_into_one_call_wait_for_each_other(queue):
    """A call costs at least as much as one of the smallest batch size."""
    add_running(queue, 5)
    call = queue.next_call(2, 2)
    add_running(queue, 3)
    assert queue.next_call(1, 2) is None
    add_running(queue, 1)
    assert len(queue.next_call(1, 2).sequences) == 4
    assert len(call.sequences) == 5


@pytest.mark.parametrize(("num_in_call", "num_ready", "batch_size"), [(4, 4, 4), (4, 5, None), (16, 3, 4)])
def test_at_most_eight_sequences_are_split_into_batches_of_four(num_in_call, num_ready, batch_size):
    queue = ModelQueue(ModelVersion("demo", 1), replace(LIMITS, batch_sizes=(4, 16, 24)))
    add_running(queue, num_in_call)
    assert len(queue.next_call(1, 1).sequences) == num_in_call
    add_running(queue, num_ready)
    call = queue.next_call(1, 2)
    assert (call and call.batch_size) == batch_size


@pytest.mark.parametrize(("num_ready", "batch_size"), [(4, 4), (5, 8), (8, 8), (9, 8)])
def test_five_to_eight_sequences_share_a_batch_of_eight_if_it_is_allowed(num_ready, batch_size):
    queue = ModelQueue(ModelVersion("demo", 1), replace(LIMITS, batch_sizes=(4, 8, 16)))
    add_running(queue, num_ready)
    call = queue.next_call(2, 2)
    assert (call.batch_size, len(call.sequences)) == (batch_size, min(num_ready, batch_size))


def test_more_than_eight_prompts_are_not_split_into_batches_of_four():
    queue = ModelQueue(ModelVersion("demo", 1), replace(LIMITS, batch_sizes=(4, 16, 24)))
    add_prompts(queue, 12)
    add_running(queue, 1)
    queue.num_decodes = 1
    assert len(queue.next_call(1, 2).sequences) == 12


@pytest.mark.parametrize(
    ("num_prompts", "length", "waits"), [(6, 100, True), (7, 100, False), (6, 1000, False)], ids=["", "many", "long"]
)
def test_sequences_that_fit_into_one_call_wait_for_a_prefill_that_completes_prompts(queue, num_prompts, length, waits):
    add_prompts(queue, num_prompts, length)
    queue.next_call(2, 2)
    add_running(queue, 2)
    assert (queue.next_call(1, 2) is None) == waits


@pytest.mark.parametrize(("num_running", "joins"), [(6, True), (7, False), (30, False)])
def test_new_sequences_get_a_short_call_first_which_running_ones_fill_up(queue, num_running, joins):
    running = add_running(queue, num_running)
    new = add(queue, 2)
    add_running(queue, 1, sampling=PENALTY)
    call = queue.next_call(1, 2)
    assert call.sequences == (*new, *(running if joins else ()))
    assert (call.batch_size, call.size) == (8, FIRST_DECODE_STEPS)


def test_running_sequences_are_spread_over_the_calls_in_flight(queue):
    """Prompts count, as they will decode soon; each share is rounded up to an allowed batch size."""
    add_running(queue, 30)
    add_prompts(queue, 9)
    assert len(queue.next_call(1, 2).sequences) == 24


def test_the_signature_of_the_longest_waiting_sequence_is_next(queue):
    first = add_running(queue, 1, sampling=PENALTY)
    add_running(queue, 20)
    call = queue.next_call(2, 2)
    assert (call.signature, call.sequences) == ("decode_full", tuple(first))
    assert queue.next_call(1, 2).signature == "decode"


@pytest.mark.parametrize(("count", "steps"), [(8, 128), (16, 128), (32, 64), (64, 32)])
def test_a_decode_call_samples_at_most_2048_tokens(queue, count, steps):
    """A larger batch has fewer steps, and none has more than `max_steps` of the version."""
    add_running(queue, count)
    assert queue.next_call(1, 1).size == steps


def test_a_partly_filled_call_is_short_while_others_run(queue):
    add_running(queue, 3)
    assert queue.next_call(2, 2).size == 128
    queue.calls.clear()
    add_prompts(queue, 1, length=1000)
    add_running(queue, 3)
    assert kind(queue.next_call(2, 2)) == "prefill"
    assert queue.next_call(1, 2).size == JOINING_DECODE_STEPS


@pytest.mark.parametrize(
    ("nums_left", "steps"),
    [([100, 90], 64), ([40, 30], 40), ([100, 50, 40], 50), ([100, 20], 64), ([3], 3)],
    ids=["none ends", "all end", "ends in the second half", "ends in the first half", "one"],
)
def test_a_decode_call_ends_with_the_sequences_that_end_late_in_it(nums_left, steps):
    """A finished slot costs as much as a running one."""
    assert steps_for(nums_left, 64) == steps


def test_a_count_is_rounded_to_an_allowed_batch_size():
    assert [fit((8, 16), count) for count in (1, 8, 9, 40)] == [8, 8, 16, 16]
    assert [fit_below((8, 16), count) for count in (5, 8, 15, 40)] == [5, 8, 8, 16]


def search_step(count):
    """Return the fields of a step of a search: tokens that each follow a state of their own."""
    states = np.zeros((count, 2), np.float32)
    fields = {"prefill_signature": "next_logprobs", "max_tokens": 0}
    step = SearchStep(logprobs=count * (0.0,), matches=count * (None,), unread=count * ((),))
    return {**fields, "prompt_ids": np.ones(count, np.int32), "state": states, "search": step}


@pytest.mark.parametrize(("count", "batch_size"), [(1, 8), (8, 8), (9, 16), (64, 64)])
def test_a_step_of_a_search_has_a_call_for_itself(queue, count, batch_size):
    (step,) = add(queue, 1, **search_step(count))
    (other,) = add(queue, 1, **search_step(3))
    queue.expect_prompt(100.0)
    call = queue.next_call(2, 2, 100.0)
    assert (call.signature, call.sequences, call.batch_size, call.size) == ("next_logprobs", (step,), batch_size, 1)
    assert call.inputs()["token_ids"].shape == (batch_size, 1)
    assert queue.next_call(1, 2, 100.0).sequences == (other,)


def test_a_step_of_a_search_reads_what_is_unread_and_expands_nothing_after_padding(queue):
    step = SearchStep(80, logprobs=(-1.0, -2.0), matches=(None, None), unread=((5, 6), ()))
    add(queue, 1, **{**search_step(2), "search": step})
    call = queue.next_call(2, 2, 100.0)
    inputs = call.inputs()
    assert (call.batch_size, inputs["num_ahead"].tolist()) == (16, 16 * [5])
    assert inputs["token_ids"][:3].tolist() == [[5, 6, 1], [1, 0, 0], [0, 0, 0]]
    assert inputs["lengths"].tolist() == [3, 1, *14 * [3]]
    assert inputs["logprob"].tolist() == [-1, -2, *14 * [-np.inf]]


def test_a_running_sequence_has_a_call_between_two_of_a_search(queue):
    add(queue, 1, **search_step(8))
    add(queue, 1, **search_step(8))
    add_running(queue, 8)
    signatures = []
    for _ in range(3):
        call = queue.next_call(2, 2, 100.0)
        signatures.append(call.signature)
        if call.is_decode:
            complete(queue, call)
    assert signatures in (["next_logprobs", "decode", "next_logprobs"], ["decode", "next_logprobs", "decode"])


def test_a_search_reads_its_prompt_by_prefill_up_to_the_last_token(queue):
    (root,) = add(queue, 1, prompt_ids=np.ones(20, np.int32), prefill_signature="next_logprobs", max_tokens=0)
    call = queue.next_call(2, 2, 100.0)
    assert (call.signature, call.size) == ("prefill", 19)
    del queue.calls[call]
    root.record_prefill(19, root.state)
    queue.enqueue(root)
    call = queue.next_call(2, 2, 100.0)
    assert (call.signature, call.batch_size) == ("next_logprobs", 8)
    assert call.inputs()["token_ids"][:, 0].tolist() == [1] + 7 * [0]
