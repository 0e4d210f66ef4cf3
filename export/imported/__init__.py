"""Imported models: Keras files and SavedModels, with their tokenizers, as what the exporter publishes."""
