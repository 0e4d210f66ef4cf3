"""The errors of the model server and their gRPC statuses.

ModelServerError
├── ConfigError          INVALID_ARGUMENT     models.config, or the config of a reload request, is invalid
├── TransitionRefused    FAILED_PRECONDITION  models.config no longer has a model_config_list
├── LabelRefused         FAILED_PRECONDITION  a label would point to a version that is not available
├── ModelsUnavailable    UNKNOWN              a reload was applied, but a new model did not become available
├── ServableNotFound     NOT_FOUND            no such model or version, or it is not loaded
├── SignatureNotFound    FAILED_PRECONDITION  the version has no signature of this name
├── InvalidRequest       INVALID_ARGUMENT     a field of the request is missing, unknown or of the wrong type
├── TensorFlowFailed     TensorFlow's own     a graph failed to run, or a version failed to load
└── PortUnavailable      UNAVAILABLE          the server cannot listen on the address; raised only at start
"""

import grpc

_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


def status_code(number: int) -> grpc.StatusCode:
    """Return the gRPC status for a TensorFlow error code; the numbers are the same."""
    return _CODES.get(number, grpc.StatusCode.UNKNOWN)


class ModelServerError(Exception):
    """Base class of errors reported to a client or operator, with a gRPC status."""

    code = grpc.StatusCode.UNKNOWN


class ConfigError(ModelServerError):
    """An invalid config; the message names the file or the model, and the field."""

    code = grpc.StatusCode.INVALID_ARGUMENT


class TransitionRefused(ModelServerError):
    """A new config has no `model_config_list`, unlike the current one."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class LabelRefused(ModelServerError):
    """A label would point to a version that is not available."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class ModelsUnavailable(ModelServerError):
    """A reload was applied, but a model that it added has no available version."""


class ServableNotFound(ModelServerError):
    """No such model or version, or it is not loaded."""

    code = grpc.StatusCode.NOT_FOUND


class SignatureNotFound(ModelServerError):
    """The version has no signature of this name."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class InvalidRequest(ModelServerError):
    """A field of the request is missing, unknown or of the wrong type; the message names it."""

    code = grpc.StatusCode.INVALID_ARGUMENT


class TensorFlowFailed(ModelServerError):
    """A graph failed to run, or a version failed to load: with TensorFlow's code, which is never OK."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class PortUnavailable(ModelServerError):
    """The server cannot listen on the address."""

    code = grpc.StatusCode.UNAVAILABLE
