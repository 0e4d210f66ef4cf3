"""The plan of a run: which lines of IN are pending, compared with OUT."""

import random

import numpy as np
import pytest

from sostenuto._batch.formats import OutputRecord
from sostenuto._batch.plan import CompletedLines, _compare, find_pending
from tests.unit.client.batch.conftest import request


def completed_of(*written):
    completed = CompletedLines()
    for item in written:
        completed.add(item)
    return completed


def numbers(pending):
    return [(line.number, line.same_as) for line in pending]


def test_every_line_but_empty_ones_is_pending(write_requests):
    pending = find_pending(write_requests("a", b"\n", b"nonsense\n", "b"), CompletedLines())
    assert numbers(pending) == [(1, 0), (3, 0), (4, 0)]
    assert (pending.num_lines, pending.num_pending) == (3, 3)
    assert find_pending(write_requests(), CompletedLines()).num_lines == 0  # arrays of length zero are no error


def test_lines_that_are_in_out_are_not_pending(write_requests):
    done = completed_of(
        OutputRecord("b", None, None), OutputRecord(None, 3, "invalid_json"), OutputRecord("gone", None, None)
    )
    pending = find_pending(write_requests("a", b"\n", b"nonsense\n", b"other\n", "b"), done)
    assert numbers(pending) == [(1, 0), (4, 0)]
    assert (pending.num_lines, pending.num_pending, pending.num_unknown) == (4, 2, 1)


def test_a_line_that_has_a_custom_id_by_now_is_pending(write_requests):
    """IN was corrected: OUT has an error for line 2, which is a valid request now."""
    done = completed_of(OutputRecord(None, 2, "invalid_json"), OutputRecord(None, 99, "invalid_json"))
    assert numbers(find_pending(write_requests("a", "b"), done)) == [(1, 0), (2, 0)]


@pytest.mark.parametrize("first_is_done", [False, True])
def test_a_duplicate_custom_id_has_the_number_of_its_first_line(write_requests, first_is_done):
    path = write_requests("a", "b", "a", "b", "a")
    done = completed_of(
        OutputRecord(None, 5, "duplicate_custom_id"), *([OutputRecord("a", None, None)] if first_is_done else [])
    )
    expected = [(2, 0), (3, 1), (4, 2)]
    assert numbers(find_pending(path, done)) == (expected if first_is_done else [(1, 0), *expected])


def test_the_plan_of_random_lines_matches_a_dictionary(tmp_path):
    draw = random.Random(1)
    names = [f"n{draw.randrange(400)}" for _ in range(1000)]
    path = tmp_path / "in"
    path.write_bytes(b"".join(map(request, names)))
    out = {f"n{draw.randrange(800)}" for _ in range(200)}
    pending = find_pending(path, completed_of(*(OutputRecord(name, None, None) for name in out)))
    first, expected = {}, []
    for number, name in enumerate(names, 1):
        if name in first or name not in out:
            expected.append((number, first.get(name, 0)))
        first.setdefault(name, number)
    assert numbers(pending) == expected
    assert pending.num_unknown == len(out - set(names))
    assert pending.states.dtype == np.uint8


def test_custom_ids_match_by_all_128_bits_of_their_digests():
    given = np.array([[1, 2], [1, 1], [1, 2]], np.uint64)
    done, first, num_unknown = _compare(np.array([[1, 1], [1, 3]], np.uint64), given)
    assert (done.tolist(), first.tolist(), num_unknown) == ([False, True, False], [0, 1, 0], 1)


def test_lines_appended_during_a_run_are_left_to_the_next_run(write_requests):
    path = write_requests("a")
    pending = find_pending(path, CompletedLines())
    path.write_bytes(path.read_bytes() + request("b"))
    assert numbers(pending) == [(1, 0)]
