"""Benchmarks behind every performance claim: each result is a ratio to a baseline measured in the same run."""
