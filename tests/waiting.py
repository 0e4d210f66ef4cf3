"""Waiting for another thread or process."""

import time


def until(condition, timeout=120, interval=0.02):
    """Wait until a condition holds and return its value.

    Args:
        condition: Called without arguments every `interval` seconds.
        timeout: Seconds; longer than anything takes beside other tests on a busy machine.
        interval: Seconds.

    Raises:
        AssertionError: it does not hold in time.
    """
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, f"the condition did not hold within {timeout} s"
        time.sleep(interval)
    return value
