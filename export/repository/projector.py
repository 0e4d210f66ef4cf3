"""An embedding in the format of TensorFlow's Embedding Projector: vectors and metadata, both as TSV lines.

https://projector.tensorflow.org takes both under "Load". It skips blank lines and splits at tabs, so labels contain
only visible characters. Metadata of one column has no header.
"""

from collections.abc import Iterator

import numpy as np

from contract.tokenizer import Tokenizer

# Of a larger embedding only the first vectors are written: in most vocabularies those of the most frequent tokens.
# 4 million numbers are some 40 MB.
MAX_NUMBERS = 4_000_000
_SPACE = "␣"


def num_vectors(tokenizer: Tokenizer, vectors: np.ndarray) -> int:
    """Return how many vectors, float32 (ids, width), are written: one per token, within the limit."""
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
    r"""Make all characters of a label visible: a space becomes ␣, other white space and control characters are escaped.

    A label made of bytes, such as `bytes:\xe2\x82`, keeps its backslashes.
    """
    if label.startswith("bytes:") and label.isascii() and label.isprintable():
        return label.replace(" ", _SPACE)
    return "".join(map(_shown, label))


def _shown(character: str) -> str:
    if character == " ":
        return _SPACE
    is_clear = character.isprintable() and character not in (_SPACE, "\\")
    return character if is_clear else character.encode("unicode_escape").decode()
