"""Corpora: reading and decoding text, splitting it into documents, and encoding it to token ids in a file."""
