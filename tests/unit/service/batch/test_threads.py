"""The engine of one machine."""

import itertools
import threading

import pytest

from service.batch import threads
from service.batch.errors import Stopped
from service.batch.output_record import OutputLine
from service.batch.requests_file import Line

LINES = [Line(number, b"%d" % number) for number in range(100)]


def made(line):
    """Answer a line by itself."""
    return OutputLine(line.content)


def test_every_line_is_answered_once():
    """Whatever the order."""
    answers = list(threads.process_lines(LINES, made, 8, lambda: None))
    assert sorted(int(answer.content) for answer in answers) == list(range(100))


def test_no_more_lines_are_read_than_are_under_way():
    """An endless file costs no memory."""
    read = itertools.count()
    lines = (Line(number, b"") for number in read)
    answers = threads.process_lines(lines, made, 4, lambda: None)
    for _ in range(50):
        next(answers)
    answers.close()
    # Four under way, eight that wait to be taken, and those that were taken.
    assert next(read) <= 50 + 4 + 8 + 4


def test_as_many_are_under_way_as_was_asked_for():
    """None of them gets its answer before all have begun."""
    together = threading.Barrier(16)

    def wait(line):
        together.wait(10)
        return made(line)

    assert len(list(threads.process_lines(LINES[:32], wait, 16, lambda: None))) == 32


def test_what_ends_a_line_for_all_ends_the_run_and_wakes_the_others():
    """The error comes out, after what was answered before it."""
    woken = threading.Event()

    def fail(line):
        if line.number == 5:
            raise Stopped("gone")
        return made(line)

    with pytest.raises(Stopped, match="gone"):
        list(threads.process_lines(LINES, fail, 1, woken.set))
    assert woken.is_set()


def test_a_second_without_an_answer_is_told(monkeypatch):
    """So that what is shown can be kept up to date."""
    monkeypatch.setattr(threads, "TICK_S", 0.01)
    go_on = threading.Event()

    def wait(line):
        assert go_on.wait(10)
        return made(line)

    answers = threads.process_lines(LINES[:1], wait, 1, lambda: None)
    assert next(answers) is None
    go_on.set()
    assert [answer for answer in answers if answer] == [made(LINES[0])]
