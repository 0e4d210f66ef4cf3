"""An embedded stand-in for TensorFlow Serving, for machines on which its container cannot run.

It implements the same gRPC API, `models.config`, flags and status codes on top of TensorFlow sessions in this
process. It is not TensorFlow Serving: it enforces the batching rules but never merges calls, it has no REST API, and it
is another build of TensorFlow, so outputs of the two are not bit-exact. `python -m model_server --help` lists all
differences.
"""
