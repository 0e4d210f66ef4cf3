"""Errors of files that processes share.

ContractError       a card, labels or a training filter is missing, damaged or of another format
└── TokenizerError  a tokenizer cannot be trained on this text or loaded from this file
"""

from pydantic import ValidationError


class ContractError(ValueError):
    """An unusable file; the message names the file and the field."""


class TokenizerError(ContractError):
    """A tokenizer cannot be trained on this text or loaded from this file."""


def first_problem(error: ValidationError) -> str:
    """Describe the first problem of a pydantic model in one line: `field: message`."""
    problem = error.errors()[0]
    return f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}".removeprefix(": ")
