"""Errors of files that processes share.

ContractError
├── TokenizerError       a tokenizer cannot be trained on this text or loaded from this file
├── CardError            a generator card is missing, damaged or of another format
├── LabelsError          the labels file is unreadable or malformed
└── TrainingFilterError  a training filter is unreadable, damaged or of another format
"""


class ContractError(ValueError):
    """An unusable file; the message names the file and the field."""


class TokenizerError(ContractError):
    """A tokenizer cannot be trained on this text or loaded from this file."""


class CardError(ContractError):
    """A generator card is missing, damaged or of another format."""


class LabelsError(ContractError):
    """The labels file is unreadable or malformed."""


class TrainingFilterError(ContractError):
    """A training filter is unreadable, damaged or of another format."""
