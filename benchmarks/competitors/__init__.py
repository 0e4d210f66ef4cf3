"""Other software at the same work: servers, libraries and scripts, and `python -m benchmarks.competitors`."""
