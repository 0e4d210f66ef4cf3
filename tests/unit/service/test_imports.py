"""A gateway worker stays small: it never imports TensorFlow."""

import subprocess
import sys

import pytest

SCRIPT = """
import sys
import service.app, service.http_server.worker, gunicorn.app.base
assert "tensorflow" not in sys.modules, "TensorFlow was imported, or its placeholder was left"
assert not [name for name in sys.modules if name.startswith(("keras", "tensorflow.python", "opentelemetry"))]
status = open("/proc/self/status").read().splitlines()
print(next(int(line.split()[1]) // 1024 for line in status if line.startswith("VmHWM")))
"""
# TensorFlow imports `keras.src.optimizers` last and works without it; it takes half of the import time.
WITHOUT_KERAS = "import sys; sys.modules['keras.src.optimizers'] = None; "


def test_the_gateway_imports_no_tensorflow_and_stays_small():
    """A worker's peak memory after all imports is below 120 MB; TensorFlow alone takes five times as much."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 120


@pytest.mark.parametrize(
    "script",
    [
        # The protos leave no placeholder for TensorFlow: the real package loads and computes in the same process.
        "import service.backends.messages, tensorflow as tf; assert tf.constant(2).numpy() + 2 == 4",
        "import tensorflow as tf, service.backends.messages as p; assert type(tf.make_tensor_proto(1)) is "
        "p.tensor_pb2.TensorProto",
    ],
    ids=["after", "before"],
)
def test_tensorflow_can_be_imported_after_the_protos_and_before_them(script):
    subprocess.run([sys.executable, "-c", WITHOUT_KERAS + script], timeout=240, check=True)
