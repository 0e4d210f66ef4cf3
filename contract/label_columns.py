"""Label columns of a training file: what it says of each document beside the text, which a model is conditioned on.

A label is a token before the text. It is never sampled, and no text is encoded as it.
"""

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from typing import Self

from pydantic import BaseModel

from contract.tokenizers.base import Tokenizer

# The label of a document that has none: each column has a token for it, too.
NO_LABEL = ""


class LabelColumn(BaseModel, frozen=True):
    """A column, and the labels that a model knows.

    Attributes:
        name: Its name in the training file.
        values: The labels; of a column of numbers its bins, ascending, such as "..20", "20..35" and "35..".
        bounds: Lower bounds of all bins but the first; None for a column of texts.
    """

    name: str
    values: tuple[str, ...]
    bounds: tuple[float, ...] | None = None

    @classmethod
    def of_numbers(cls, name: str, bounds: tuple[float, ...]) -> Self:
        """Return the column of bins with these lower bounds, ascending; a bin ends below the next one's bound."""
        texts = [f"{bound:.12g}" for bound in bounds]
        if len(set(texts)) < len(texts):
            # Such as order numbers of 16 digits. Others are read more easily without the digits of 0.1 + 0.2.
            texts = [f"{bound:.17g}" for bound in bounds]
        values = tuple(f"{low}..{high}" for low, high in zip(["", *texts], [*texts, ""], strict=True))
        return cls(name=name, values=values, bounds=bounds)

    def token(self, value: str) -> str:
        return f"<{self.name}={value}>"

    def find(self, given: str) -> str | None:
        """Return the label of a text, or of the number that it is; None if it is unknown."""
        if given in self.values:
            return given
        number = None if self.bounds is None else as_number(given)
        return None if number is None else self.values[bisect_right(self.bounds or (), number)]


def as_number(text: str) -> float | None:
    """Return the number that a text is; None if it is none, or not finite."""
    try:
        # Python's 1_2 is 12, but a text in a training file.
        number = math.nan if "_" in text else float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def label_tokens(columns: Iterable[LabelColumn]) -> list[str]:
    """Return the names of the tokens of all labels, and of none."""
    return [column.token(value) for column in columns for value in (NO_LABEL, *column.values)]


def label_ids(tokenizer: Tokenizer) -> dict[str, int]:
    return {tokenizer.tokens[i]: i for i in tokenizer.special.labels}


def opening_ids(tokenizer: Tokenizer, columns: Iterable[LabelColumn], labels: Mapping[str, str]) -> list[int]:
    """Return what precedes a document: the start token, then the label of each column, or that it has none."""
    ids = label_ids(tokenizer)
    return [tokenizer.special.start, *(ids[column.token(labels.get(column.name, NO_LABEL))] for column in columns)]
