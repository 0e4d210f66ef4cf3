"""Imports TensorFlow without its log output."""

import os

from contract.quiet import suppress_stderr


def import_tensorflow_quietly(*, start: bool = True) -> None:
    """Import TensorFlow and suppress what it prints on standard error.

    Args:
        start: Whether to start its runtime too, which warns about a missing GPU. A training starts the runtime itself,
            for the devices that it finds.

    Raises:
        Exception: the import failed; the suppressed output is printed first.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with suppress_stderr():
        import tensorflow as tf  # noqa: PLC0415 - the purpose of this module

        if start:
            tf.zeros([1])
