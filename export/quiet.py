"""Importing TensorFlow without its chatter."""

import os

from contract.quiet import stderr_held_back


def import_tensorflow_quietly(*, start: bool = True) -> None:
    """Import TensorFlow.

    Args:
        start: Whether to start its runtime, which has a word about a missing GPU. A training starts it itself, for the
            devices that it finds.

    Raises:
        Exception: what the import raised, after all that it printed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with stderr_held_back():
        import tensorflow as tf  # noqa: PLC0415 - the point of this module

        if start:
            tf.zeros([1])
