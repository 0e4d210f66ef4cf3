"""Continuous batching: which sequences share which model call, and when. No text, no HTTP, no gRPC."""
