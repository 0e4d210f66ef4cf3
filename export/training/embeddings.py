"""Initial embeddings: vectors from a file, or from skip-gram on the corpus.

Knows vocabularies and how to look up their tokens in a vector file. Does not know models.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from contract.tokenizer import Tokenizer
from export.errors import ConfigError, CorpusError
from export.training.skipgram import count_tokens, skip_gram
from export.training.vector_file import read_vectors

SKIP_GRAM = "skip-gram"
# Keras initializes an Embedding uniformly between -0.05 and 0.05.
KERAS_RANGE = 0.05
# Skip-gram vectors are scaled to this standard deviation: validation loss was 3.52, 3.48, 3.44 and 3.41 with 0.03, 0.1,
# 0.3 and 1.
SKIP_GRAM_STD = 1.0
SHOWN_MISSING = 8


def initial_embedding(
    source: str, tokenizer: Tokenizer, ids: np.ndarray, width: int, seed: int, echo: Callable[[str], None]
) -> np.ndarray:
    """Return an initial embedding, float32 (vocab, width); reproducible for the same arguments.

    Special tokens are initialized as in Keras. Tokens without a vector are sampled from the normal distribution with
    the mean and the standard deviation of the vectors. The source is `skip-gram`, which learns from the ids of the
    training text, or a file that `export.training.vector_file` reads, whose vectors are not rescaled.

    Raises:
        ConfigError: the file cannot be read, is no vector file, has another width or contains none of the tokens.
        CorpusError: the training text has no token to learn a vector for.
    """
    texts = [tokenizer.decode([token_id]) for token_id in range(len(tokenizer.tokens))]
    has_text = np.array([bool(text) for text in texts])
    if source.replace("_", "").lower() == SKIP_GRAM.replace("-", "") and not Path(source).exists():
        raise ConfigError(f"embedding_init {source}: no such file; to train vectors on the corpus, pass {SKIP_GRAM}")
    if source == SKIP_GRAM:
        vectors, is_known = _train_skip_gram(ids, has_text, tokenizer.special.end, width, seed, echo)
    else:
        vectors, is_known = _read_file(Path(source), texts, width, echo)
    rng = np.random.default_rng([seed, 1])
    missing, special = has_text & ~is_known, ~has_text
    available = vectors[is_known]
    # A single vector, or equal ones, have no deviation; the missing tokens must still differ from each other.
    vectors[missing] = rng.normal(available.mean(), available.std() or KERAS_RANGE, (missing.sum(), width))
    vectors[special] = rng.uniform(-KERAS_RANGE, KERAS_RANGE, (special.sum(), width))
    return vectors


def _train_skip_gram(
    ids: np.ndarray, has_text: np.ndarray, end: int | None, width: int, seed: int, echo: Callable[[str], None]
) -> tuple[np.ndarray, np.ndarray]:
    is_known = has_text & (count_tokens(ids, len(has_text)) > 0)
    if not is_known.any():
        raise CorpusError(f"embedding_init {SKIP_GRAM}: none of the {len(ids):,} training tokens has text")
    is_end = end is not None and not has_text[end]
    vectors = skip_gram(ids, has_text, end if is_end else None, width, seed, echo)
    return vectors * (SKIP_GRAM_STD / vectors[is_known].std()), is_known


def _read_file(path: Path, texts: list[str], width: int, echo: Callable[[str], None]) -> tuple[np.ndarray, np.ndarray]:
    names = [_names(text) for text in texts]
    vector_of = read_vectors(path, {name for candidates in names for name in candidates}, width)
    vectors, is_known = np.zeros((len(texts), width), np.float32), np.zeros(len(texts), bool)
    for token_id, candidates in enumerate(names):
        name = next((name for name in candidates if name in vector_of), None)
        if name is not None:
            vectors[token_id], is_known[token_id] = vector_of[name], True
    missing = [text for text, known in zip(texts, is_known, strict=True) if text and not known]
    num_found, total = int(is_known.sum()), int(is_known.sum()) + len(missing)
    examples = ", ".join(map(repr, missing[:SHOWN_MISSING])) + (" …" if missing[SHOWN_MISSING:] else "")
    if not num_found:
        raise ConfigError(f"embedding_init {path}: it has none of the {total:,} tokens of the vocabulary: {examples}")
    absent = f"; it has no {examples}" if missing else ""
    echo(f"embedding from {path}: vectors of {num_found:,} of {total:,} tokens ({num_found / total:.1%}){absent}")
    return vectors, is_known


def _names(text: str) -> tuple[bytes, ...]:
    """Return the names to look up for a token in a vector file, in UTF-8, the best first.

    Vector files have words without the leading space that belongs to a token here. They contain neither white space nor
    incomplete characters.
    """
    if not text.strip() or "\ufffd" in text:
        return ()
    return text.encode(errors="surrogatepass"), text.strip().encode(errors="surrogatepass")
