"""What can go wrong, and the gRPC status that tells a client so.

ModelServerError
├── ConfigError          INVALID_ARGUMENT     models.config, or the config of a reload request, cannot be used
├── TransitionRefused    FAILED_PRECONDITION  models.config lists no models any more, not even an empty list of them
├── LabelRefused         FAILED_PRECONDITION  a label was to point at a version that is not available
├── ModelsUnavailable    UNKNOWN              a reload is in force, but a new model did not become available
├── ServableNotFound     NOT_FOUND            no such model or version, or it is not loaded
├── SignatureNotFound    FAILED_PRECONDITION  the version has no signature of this name
├── InvalidRequest       INVALID_ARGUMENT     a field of the request is missing, unknown or of the wrong type
├── TensorFlowFailed     TensorFlow's own     a graph failed while it ran, or a version while it loaded
└── PortUnavailable      UNAVAILABLE          the address cannot be listened on; seen at start alone
"""

import grpc

_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


def status_code(number: int) -> grpc.StatusCode:
    """Return the gRPC status of one of TensorFlow's error codes, which are the same numbers."""
    return _CODES.get(number, grpc.StatusCode.UNKNOWN)


class ModelServerError(Exception):
    """Something that a client or an operator is told, with the status that it gets over gRPC."""

    code = grpc.StatusCode.UNKNOWN


class ConfigError(ModelServerError):
    """A config that cannot be used; the message names the file or the model, and the field."""

    code = grpc.StatusCode.INVALID_ARGUMENT


class TransitionRefused(ModelServerError):
    """A config without `model_config_list` was to follow one with it."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class LabelRefused(ModelServerError):
    """A label was to point at a version that is not available."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class ModelsUnavailable(ModelServerError):
    """A reload is in force, but a model that it added has no available version."""


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
    """A graph failed while it ran, or a version while it loaded."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        """Keep TensorFlow's own status.

        Args:
            code: What TensorFlow said, never OK.
            message: Its text, without stack traces.
        """
        super().__init__(message)
        self.code = code


class PortUnavailable(ModelServerError):
    """The address cannot be listened on."""

    code = grpc.StatusCode.UNAVAILABLE
