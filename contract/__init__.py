"""File formats and names that processes share: tokenizers, the generator card, the names in a SavedModel.

`export` writes these files, `service` reads them. Nothing here imports TensorFlow, Flask or either of those packages.
"""
