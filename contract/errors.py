"""What can be wrong with a file that crosses a process boundary.

ContractError
├── TokenizerError   a tokenizer cannot be built from this text, or this file holds none
├── CardError        a generator card is missing, damaged or of another format
└── LabelsError      the file of labels cannot be read, or holds something else
"""


class ContractError(ValueError):
    """A file that cannot be used; the message names the file and the field."""


class TokenizerError(ContractError):
    """A tokenizer cannot be built from this text, or this file holds none."""


class CardError(ContractError):
    """A generator card is missing, damaged or of another format."""


class LabelsError(ContractError):
    """The file of labels cannot be read, or holds something else."""
