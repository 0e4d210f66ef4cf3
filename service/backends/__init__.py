"""Backends: gRPC calls to model servers, load balancing, health checks and determinism probes."""
