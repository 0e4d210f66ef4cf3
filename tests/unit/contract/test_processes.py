"""`suppress_stderr`: messages of libraries are discarded, and shown after an error."""

import os

import pytest

from contract.processes import suppress_stderr


def test_output_within_the_block_is_discarded_and_later_output_shown(capfd):
    with suppress_stderr():
        os.write(2, b"chatter\n")
    os.write(2, b"news\n")
    assert capfd.readouterr().err == "news\n"


def test_output_before_an_error_is_shown(capfd):
    def fail():
        with suppress_stderr():
            os.write(2, b"the cause\n")
            raise ImportError

    with pytest.raises(ImportError):
        fail()
    assert capfd.readouterr().err == "the cause\n"
