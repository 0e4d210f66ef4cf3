"""Chatter is held back, and shown when it matters."""

import os

import pytest

from contract.quiet import suppress_stderr


def test_what_is_printed_meanwhile_is_not_seen_and_what_comes_after_is(capfd):
    """Lines of libraries in C, which write to the descriptor, are held back as well."""
    with suppress_stderr():
        os.write(2, b"chatter\n")
    os.write(2, b"news\n")
    assert capfd.readouterr().err == "news\n"


def test_the_lines_before_an_error_are_shown(capfd):
    """Whoever looks for the cause finds all that was printed."""

    def fail():
        with suppress_stderr():
            os.write(2, b"the cause\n")
            raise ImportError

    with pytest.raises(ImportError):
        fail()
    assert capfd.readouterr().err == "the cause\n"
