"""The Flask gateway: validate, schedule, decode over gRPC, answer as JSON or server-sent events."""
