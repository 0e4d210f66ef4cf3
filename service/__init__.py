"""The Flask gateway: validate, schedule, decode over gRPC, answer as JSON or server-sent events."""

__version__ = "0.1.0"
