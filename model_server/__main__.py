"""`python -m model_server`: command line, logging, signals and exit status.

Exits with 0 after SIGTERM or SIGINT, 1 when the server cannot start, 2 for an invalid command line or SSL config.
"""

import contextlib
import gc
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence

from contract.processes import suppress_stderr
from model_server.errors import ConfigError, ModelServerError
from model_server.flags import parse

log = logging.getLogger("model_server")
_SIGNALS = {signal.SIGTERM, signal.SIGINT}

# Both oneDNN and TensorFlow's replacement of Eigen's contraction choose kernels by the CPU's instruction set. Without
# them, matrix products use code compiled once for all CPUs.
PORTABLE = {"TF_ENABLE_ONEDNN_OPTS": "0", "TENSORFLOW_USE_CUSTOM_CONTRACTION_KERNEL": "false"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until a signal arrives: then the process exits here with status 0.

    Returns the exit status, if the server could not start.
    """
    flags = parse(arguments)
    # In every thread and during the slow import of TensorFlow, too: a signal stays pending until it is accepted below.
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    _log_to_stderr()
    log.info("embedded model server: a stand-in for TensorFlow Serving, process %d", os.getpid())
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if flags.portable:
        os.environ |= PORTABLE
    with suppress_stderr(), _without_keras():
        from model_server.server import ModelServer, configure_tensorflow  # noqa: PLC0415 - TensorFlow: after the above

    configure_tensorflow(flags)
    # Imports leave 270,000 permanent objects: each full garbage collection would pause all calls for 140 ms.
    gc.collect()
    gc.freeze()
    try:
        server = ModelServer(flags)
    except ConfigError as error:
        log.error("%s", error)
        return 2
    try:
        server.start(give_up=lambda: not _SIGNALS.isdisjoint(signal.sigpending()))
    except ModelServerError as error:
        log.error("%s", error)
        return 1
    received = signal.sigwait(_SIGNALS)
    # Another one ends the process at once.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    log.info("stopping after %s", signal.Signals(received).name)
    server.stop()
    logging.shutdown()
    # Not `return 0`: the interpreter would wait for threads whose calls exceeded the grace period.
    os._exit(0)


@contextlib.contextmanager
def _without_keras() -> Iterator[None]:
    """Keep TensorFlow from importing Keras, which no SavedModel needs: saves 1.7 s of CPU time and 180 MB.

    TensorFlow imports `keras.src.optimizers` last and ignores an ImportError. An entry of None in `sys.modules` raises
    one (https://docs.python.org/3/reference/import.html#the-module-cache).
    """
    name = "keras.src.optimizers"
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]


def _log_to_stderr() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False


if __name__ == "__main__":
    sys.exit(main())
