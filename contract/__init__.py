"""What crosses a process boundary: tokenizers, the generator card, the names in a SavedModel.

`export` writes these things, `service` reads them. Nothing here imports TensorFlow, Flask or either of those packages.
"""
