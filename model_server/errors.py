"""The errors of the model server: gRPC statuses, like TensorFlow's `absl::Status`.

ModelServerError       any status; the message is TensorFlow Serving's where that has one
└── InvalidArgument    INVALID_ARGUMENT: a field of a request is missing, unknown or of the wrong type
    └── ConfigError    a config file, or the config of a reload request, is invalid
"""

from typing import Any

import grpc

_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


class ModelServerError(Exception):
    """An error reported to a client or operator, with a gRPC status."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class InvalidArgument(ModelServerError):
    """An invalid request; the message names the field."""

    def __init__(self, message: str) -> None:
        super().__init__(grpc.StatusCode.INVALID_ARGUMENT, message)


class ConfigError(InvalidArgument):
    """An invalid config; the message names the file or the model, and the field."""


def from_tensorflow(error: Any) -> ModelServerError:
    """Convert a `tf.errors.OpError`, whose codes are gRPC's."""
    return ModelServerError(_CODES.get(error.error_code, grpc.StatusCode.UNKNOWN), str(error.message).strip())
