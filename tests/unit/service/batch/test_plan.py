"""Which lines are to be answered, against what OUT has."""

import random

import numpy as np
import pytest

from service.batch.output_record import OutputRecord
from service.batch.plan import CompletedLines, _compare, find_pending
from tests.unit.service.batch.conftest import request


def completed_of(*written):
    """Take in what OUT says."""
    completed = CompletedLines()
    for item in written:
        completed.add(item)
    return completed


def numbers(pending):
    """Return the numbers of the lines to do, and of the ones that they repeat."""
    return [(line.number, line.same_as) for line in pending]


def test_every_line_is_to_do_but_empty_ones(write_requests):
    """Wrong ones too: they get their line."""
    pending = find_pending(write_requests("a", b"\n", b"nonsense\n", "b"), CompletedLines())
    assert numbers(pending) == [(1, 0), (3, 0), (4, 0)]
    assert (pending.num_lines, pending.num_pending) == (3, 3)


def test_what_out_has_is_done(write_requests):
    """By custom_id, wherever the line is by now; by number where there is none."""
    done = completed_of(
        OutputRecord("b", None, None), OutputRecord(None, 3, "invalid_json"), OutputRecord("gone", None, None)
    )
    pending = find_pending(write_requests("a", b"\n", b"nonsense\n", b"other\n", "b"), done)
    assert numbers(pending) == [(1, 0), (4, 0)]
    assert (pending.num_lines, pending.num_pending, pending.num_unknown) == (4, 2, 1)


def test_a_number_does_not_answer_a_line_that_has_a_name_by_now(write_requests):
    """IN was mended: line 2 was nonsense and is a request."""
    done = completed_of(OutputRecord(None, 2, "invalid_json"), OutputRecord(None, 99, "invalid_json"))
    assert numbers(find_pending(write_requests("a", "b"), done)) == [(1, 0), (2, 0)]


@pytest.mark.parametrize("first_is_done", [False, True])
def test_a_repeated_custom_id_is_marked_with_its_first_line(write_requests, first_is_done):
    """Whether that one is done or not; each of the others is done by its own number."""
    path = write_requests("a", "b", "a", "b", "a")
    done = completed_of(
        OutputRecord(None, 5, "duplicate_custom_id"), *([OutputRecord("a", None, None)] if first_is_done else [])
    )
    expected = [(2, 0), (3, 1), (4, 2)]
    assert numbers(find_pending(path, done)) == (expected if first_is_done else [(1, 0), *expected])


def test_many_lines_agree_with_the_plain_way(tmp_path):
    """Drawn names with repeats, against sets and dictionaries."""
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


def test_half_a_digest_makes_no_name():
    """Names whose digests begin alike are told from each other."""
    given = np.array([[1, 2], [1, 1], [1, 2]], np.uint64)
    done, first, num_unknown = _compare(np.array([[1, 1], [1, 3]], np.uint64), given)
    assert (done.tolist(), first.tolist(), num_unknown) == ([False, True, False], [-1, -1, 0], 1)


def test_lines_that_are_added_while_a_run_goes_are_left_to_the_next(write_requests):
    """What was counted is answered."""
    path = write_requests("a")
    pending = find_pending(path, CompletedLines())
    path.write_bytes(path.read_bytes() + request("b"))
    assert numbers(pending) == [(1, 0)]


def test_nothing_in_and_nothing_out(write_requests):
    """An empty file has no lines."""
    assert find_pending(write_requests(), CompletedLines()).num_lines == 0
