"""Implementations of the commands in `service.cli`."""
