"""Backends: the model registry, replicas and their health, determinism probes, and gRPC calls to model servers."""
