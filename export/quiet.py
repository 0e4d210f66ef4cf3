"""Importing TensorFlow without its chatter.

TensorFlow 2.21 prints a dozen lines about processors and drivers while it is imported, whatever TF_CPP_MIN_LOG_LEVEL
says, and a line about a missing GPU at its first operation. What it prints if the import fails is shown.
"""

import os
import sys
import tempfile


def import_tensorflow_quietly() -> None:
    """Import TensorFlow and start its runtime with standard error held back.

    Raises:
        Exception: what the import raised, after all that it printed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            import tensorflow as tf  # noqa: PLC0415 - the point of this module

            tf.zeros([1])
        except BaseException:
            held.seek(0)
            os.write(stderr, held.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
