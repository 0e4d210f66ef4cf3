"""An embedding as TensorFlow's Embedding Projector reads it: two texts of lines, vectors and what they stand for.

https://projector.tensorflow.org takes both under "Load". It passes over lines that are blank and cuts at tabs, so every
character of a label can be seen. Metadata of one column has no header.
"""

from collections.abc import Iterator

import numpy as np

from contract.tokenizer import Tokenizer

# Of a larger embedding the first vectors are written: in most vocabularies they are the most frequent tokens.
# 4 million numbers are some 40 MB.
MAX_NUMBERS = 4_000_000
_SHORT = {"\t": "\\t", "\n": "\\n", "\r": "\\r", "\\": "\\\\"}
_SPACE = "␣"


def num_vectors(tokenizer: Tokenizer, vectors: np.ndarray) -> int:
    """Return how many vectors are written: one for each token, within the bound.

    Args:
        tokenizer: Its ids are the first rows.
        vectors: float32 (ids, width).
    """
    return min(len(tokenizer.tokens), len(vectors), max(1, MAX_NUMBERS // vectors.shape[1]))


def vector_lines(tokenizer: Tokenizer, vectors: np.ndarray) -> Iterator[str]:
    """Yield the lines of `vectors.tsv`; see `num_vectors`."""
    for vector in vectors[: num_vectors(tokenizer, vectors)]:
        yield "\t".join([f"{value:.7g}" for value in vector.tolist()]) + "\n"


def label_lines(tokenizer: Tokenizer, vectors: np.ndarray) -> Iterator[str]:
    """Yield the lines of `metadata.tsv`, one for each of `vector_lines`."""
    for token_id in range(num_vectors(tokenizer, vectors)):
        yield visible(tokenizer.detokenizer().label(token_id)) + "\n"


def visible(label: str) -> str:
    r"""Return a label of which everything can be seen: a space is ␣, other white space and control characters escaped.

    What a tokenizer calls by its bytes, such as `bytes:\xe2\x82`, keeps its backslashes.
    """
    if label.startswith("bytes:") and label.isascii() and label.isprintable():
        return label.replace(" ", _SPACE)
    return "".join(map(_shown, label))


def _shown(character: str) -> str:
    if character == " ":
        return _SPACE
    if character in _SHORT:
        return _SHORT[character]
    if character.isprintable() and character != _SPACE:
        return character
    return character.encode("unicode_escape").decode()
