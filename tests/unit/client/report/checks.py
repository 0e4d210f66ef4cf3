"""Validators of the tests, as a user's module has them."""

import os
import time


def short(record):
    """Records of at most three characters are valid."""
    print("what it prints is no answer")
    return len(record) <= 3


def lower(record):
    """The canonical form is lower case; digits are invalid."""
    return None if record.isdigit() else record.lower()


def fragile(record):
    """Raise, hang or crash for some records."""
    if record == "raise":
        raise ValueError("no such record")
    if record == "hang":
        time.sleep(60)
    if record == "crash":
        os._exit(3)
    return True


def hangs(_):
    """Answer for no record."""
    time.sleep(60)


NUMBER = 5
