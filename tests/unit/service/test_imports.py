"""The gateway's worker stays light: it never imports TensorFlow."""

import subprocess
import sys

SCRIPT = """
import sys
import service.app, service.process.worker, gunicorn.app.base
assert "tensorflow" not in sys.modules, "TensorFlow was imported, or its placeholder was left"
assert not [name for name in sys.modules if name.startswith(("keras", "tensorflow.python"))]
status = open("/proc/self/status").read().splitlines()
print(next(int(line.split()[1]) // 1024 for line in status if line.startswith("VmHWM")))
"""
# TensorFlow imports it last and does without it; it takes half of the time.
WITHOUT_KERAS = "import sys; sys.modules['keras.src.optimizers'] = None; "


def test_the_gateway_imports_no_tensorflow_and_stays_small():
    """Everything that a worker imports fits into 120 MB, which TensorFlow alone would exceed five times."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 120


def test_tensorflow_can_still_be_imported_after_the_messages():
    """The placeholder is gone afterwards: the real package loads and computes in the same process."""
    script = f"{WITHOUT_KERAS}import service.backends.protos, tensorflow as tf; assert tf.constant(2).numpy() + 2 == 4"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_the_messages_load_beside_a_tensorflow_that_is_there():
    """With TensorFlow imported first, its own messages are used."""
    script = f"""
{WITHOUT_KERAS}import tensorflow as tf, service.backends.protos as p
assert type(tf.make_tensor_proto(1)) is p.tensor_pb2.TensorProto
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
