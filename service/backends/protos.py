"""TensorFlow Serving's messages and stubs, without TensorFlow.

`tensorflow_serving.apis` imports `tensorflow.core.…_pb2`, and that runs `tensorflow/__init__.py`: 687 MB and 2.6 s in
every worker. With a placeholder module of that name, whose `__path__` is the installed package's, only the generated
messages load: 55 MB and 0.2 s (measured). The placeholder is removed afterwards, so a later real import works.
"""

import importlib.util
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def _placeholder_for_tensorflow() -> Iterator[None]:
    """Install the placeholder, unless `tensorflow` is already imported, not installed or a namespace package."""
    spec = None if "tensorflow" in sys.modules else importlib.util.find_spec("tensorflow")
    if spec is None or spec.origin is None:
        yield
        return
    module = types.ModuleType("tensorflow")
    module.__path__ = list(spec.submodule_search_locations or [])
    sys.modules["tensorflow"] = module
    try:
        yield
    finally:
        # The messages stay loaded as tensorflow.core.…; only the placeholder that hides the real package is removed.
        if sys.modules.get("tensorflow") is module:
            del sys.modules["tensorflow"]


with _placeholder_for_tensorflow():
    from tensorflow.core.framework import tensor_pb2, types_pb2
    from tensorflow_serving.apis import (
        get_model_status_pb2,
        model_service_pb2_grpc,
        predict_pb2,
        prediction_service_pb2_grpc,
    )
    from tensorflow_serving.config import model_server_config_pb2

__all__ = [
    "get_model_status_pb2",
    "model_server_config_pb2",
    "model_service_pb2_grpc",
    "predict_pb2",
    "prediction_service_pb2_grpc",
    "tensor_pb2",
    "types_pb2",
]
