"""Client of Ostinato, a service for recurrent text generators: `Client` is where to start."""

from ostinato._client import Client
from ostinato._errors import (
    APIError,
    BadRequest,
    ConnectionFailed,
    Forbidden,
    InvalidArgument,
    NotFound,
    OstinatoError,
    ServerError,
    ServiceUnavailable,
    StreamInterrupted,
    Timeout,
    TooManyRequests,
    Unauthorized,
    UnexpectedAnswer,
)
from ostinato._results import Choice, Generation, Model, Piece, Usage
from ostinato._stream import Stream
from ostinato._version import __version__

__all__ = [
    "APIError",
    "BadRequest",
    "Choice",
    "Client",
    "ConnectionFailed",
    "Forbidden",
    "Generation",
    "InvalidArgument",
    "Model",
    "NotFound",
    "OstinatoError",
    "Piece",
    "ServerError",
    "ServiceUnavailable",
    "Stream",
    "StreamInterrupted",
    "Timeout",
    "TooManyRequests",
    "Unauthorized",
    "UnexpectedAnswer",
    "Usage",
    "__version__",
]
