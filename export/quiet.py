"""Imports TensorFlow without its log output."""

import atexit
import os
import sys

from contract.quiet import suppress_stderr
from export.interrupts import exit_at_once, signal_handlers


def import_tensorflow_quietly(*, start: bool = True) -> None:
    """Import TensorFlow, start its runtime, which warns about a missing GPU, and suppress what they print.

    A training run starts the runtime itself, for the devices that it finds. If the import fails, the output is printed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with suppress_stderr(), signal_handlers(exit_at_once):
        import tensorflow as tf  # noqa: PLC0415 - the purpose of this module

        if start:
            tf.zeros([1])
    # TensorFlow leaves a thread pool to interpreter shutdown. It cannot be closed there and would print an error.
    atexit.register(setattr, sys, "unraisablehook", lambda _: None)
