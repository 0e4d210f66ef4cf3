"""The Flask gateway: validates, schedules, decodes over gRPC, and responds with JSON or server-sent events."""

__version__ = "0.1.0"
