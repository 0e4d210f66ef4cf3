"""An embedded stand-in for TensorFlow Serving, for a machine on which its container cannot run.

It speaks the same gRPC protos, reads the same `models.config`, takes the same flags and answers with the same status
codes; behind them is `tf.saved_model.load` in this process. It is not TensorFlow Serving: it enforces the rules of
batching but never merges calls, it has no REST port, it is another build of TensorFlow (so never expect equal bits from
the two), and it differs where `python -m model_server --help` says so.
"""
