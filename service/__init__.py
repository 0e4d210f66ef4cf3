"""The Flask gateway: validates requests, schedules sequences, calls model servers by gRPC, and responds."""

__version__ = "0.1.0"
