"""Execution on one machine, by threads."""

import itertools
import threading

import pytest

from sostenuto._batch import threads
from sostenuto._batch.errors import Stopped
from sostenuto._batch.output_record import OutputLine
from sostenuto._batch.requests_file import Line

LINES = [Line(number, b"%d" % number) for number in range(100)]


def made(line):
    """Process a line: its output is its content."""
    return OutputLine(line.content)


def test_every_line_is_processed_once():
    """The order of the output may differ."""
    answers = list(threads.process_lines(LINES, made, 8, lambda: None))
    assert sorted(int(answer.content) for answer in answers) == list(range(100))


def test_lines_are_read_only_as_fast_as_they_are_processed():
    """So an endless IN costs no memory."""
    read = itertools.count()
    lines = (Line(number, b"") for number in read)
    answers = threads.process_lines(lines, made, 4, lambda: None)
    for _ in range(50):
        next(answers)
    answers.close()
    # The lines taken, four in process and eight in the queue; four of tolerance.
    assert next(read) <= 50 + 4 + 8 + 4


def test_as_many_lines_are_processed_at_once_as_requested():
    """A barrier lets none of the 16 end before all have begun."""
    together = threading.Barrier(16)

    def wait(line):
        together.wait(10)
        return made(line)

    assert len(list(threads.process_lines(LINES[:32], wait, 16, lambda: None))) == 32


def test_an_exception_in_a_thread_ends_the_run_and_wakes_the_others():
    """The caller gets the exception of the thread."""
    woken = threading.Event()

    def fail(line):
        if line.number == 5:
            raise Stopped("gone")
        return made(line)

    with pytest.raises(Stopped, match="gone"):
        list(threads.process_lines(LINES, fail, 1, woken.set))
    assert woken.is_set()


def test_an_interval_without_output_yields_none(monkeypatch):
    """So the caller can update its progress bar."""
    monkeypatch.setattr(threads, "TICK_S", 0.01)
    go_on = threading.Event()

    def wait(line):
        assert go_on.wait(10)
        return made(line)

    answers = threads.process_lines(LINES[:1], wait, 1, lambda: None)
    assert next(answers) is None
    go_on.set()
    assert [answer for answer in answers if answer] == [made(LINES[0])]
