"""Standard error held back while something that chatters is imported.

Here because `export` and `model_server` both need it and never import each other. TensorFlow 2.21 prints some eight
lines about processors and drivers during its import, whatever TF_CPP_MIN_LOG_LEVEL says.
"""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def stderr_held_back() -> Iterator[None]:
    """Hold back what the process prints on descriptor 2, libraries in C included; show it if an exception passes."""
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except Exception:
            held.seek(0)
            os.write(stderr, held.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
