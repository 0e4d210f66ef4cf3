"""Slots are assigned fairly among requests, and none is lost or assigned twice."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.scheduling.queues import Slots
from tests.fakes import make_sequence


def request(number, count):
    made = [make_sequence(random_stream=choice) for choice in range(count)]
    for sequence in made:
        sequence.request_number = number
    return made


def enqueue(slots, sequences):
    for sequence in sequences:
        slots.enqueue(sequence)


def admit_all(slots):
    """Assign every free slot; return the sequences that got one, in order."""
    admitted = []
    while slots.any_waiting(bool) and slots.num_free:
        admitted.append(slots.assign(bool))
    return admitted


def test_a_free_slot_goes_to_the_request_that_holds_the_fewest():
    slots = Slots(5)
    wide, narrow = request(1, 4), request(2, 2)
    enqueue(slots, wide)
    enqueue(slots, narrow)
    assert admit_all(slots) == [wide[0], narrow[0], wide[1], narrow[1], wide[2]]
    assert slots.num_free == 0
    assert slots.any_waiting(bool)


def test_a_slot_is_released_only_once():
    slots = Slots(2)
    first, second = request(1, 2)
    enqueue(slots, [first])
    admit_all(slots)
    for sequence in (first, first, second):
        slots.release(sequence)
    assert slots.num_free == 2


@pytest.mark.parametrize(("held", "expected"), [(1, []), (2, [1]), (4, [1])])
def test_a_request_is_over_its_share_with_two_slots_more_than_a_waiting_one(held, expected):
    """A single slot is never preempted, and no preemption has to be undone by another."""
    slots = Slots(held)
    enqueue(slots, request(1, held))
    admit_all(slots)
    enqueue(slots, request(2, 1))
    assert list(slots.over_share(bool)) == expected


def test_removed_sequences_are_no_longer_waiting():
    slots = Slots(3)
    first, second = request(1, 3), request(2, 2)
    enqueue(slots, [*first, *second])
    assert slots.remove(lambda sequence: sequence in (first[0], first[2], *second)) == [first[0], first[2], *second]
    assert admit_all(slots) == [first[1]]
    assert not slots.any_waiting(bool)


@given(st.lists(st.integers(1, 12), min_size=1, max_size=8), st.integers(1, 10))
def test_shares_are_max_min_fair(widths, num_slots):
    slots = Slots(num_slots)
    running = []
    for number, width in enumerate(widths):
        enqueue(slots, request(number, width))
        while slots.any_waiting(bool) and (slots.num_free or next(slots.over_share(bool), None) is not None):
            if not slots.num_free:
                rich = next(slots.over_share(bool))
                victim = next(sequence for sequence in reversed(running) if sequence.request_number == rich)
                running.remove(victim)
                slots.release(victim)
                slots.enqueue(victim, at_front=True)
            running.append(slots.assign(bool))
    held = Counter(sequence.request_number for sequence in running)
    assert len(running) == min(num_slots, sum(widths))
    for number, width in enumerate(widths):
        if held[number] < width:
            assert max(held.values()) <= held[number] + 1
