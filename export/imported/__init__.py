"""Imported models: Keras files and SavedModels, with their tokenizers, prepared for publication."""
