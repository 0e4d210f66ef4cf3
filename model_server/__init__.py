"""An embedded stand-in for TensorFlow Serving, for machines on which its container cannot run.

It implements the same gRPC API, `models.config`, flags and status codes on top of TensorFlow sessions in this process.
`python -m model_server --help` lists what differs: among others, it never merges calls and has no REST API, and outputs
of the two are not bit-exact.
"""
