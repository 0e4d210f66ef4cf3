"""What an embedding starts from: vectors of a file, or of skip-gram on the corpus.

Knows vocabularies and how their tokens are found in a file. Does not know models.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from contract.tokenizer import Tokenizer
from export.errors import ConfigError, CorpusError
from export.training.skipgram import count_tokens, skip_gram
from export.training.vector_file import read_vectors

SKIP_GRAM = "skip-gram"
# Keras's Embedding starts from the uniform distribution between these.
KERAS_RANGE = 0.05
# Skip-gram's vectors are scaled to this deviation: validation loss 3.52, 3.48, 3.44 and 3.41 with 0.03, 0.1, 0.3, 1.
SKIP_GRAM_STD = 1.0
SHOWN_MISSING = 8


def initial_embedding(
    source: str, tokenizer: Tokenizer, ids: np.ndarray, width: int, seed: int, say: Callable[[str], None]
) -> np.ndarray:
    """Return what an embedding starts from; alike for the same arguments.

    Special tokens start as with Keras. Tokens for which there is no vector start from the normal distribution with the
    mean and the standard deviation of those for which there is one.

    Args:
        source: `skip-gram`, or a file as `export.training.vector_file` reads it, whose vectors are taken as they are.
        tokenizer: Of the model.
        ids: integers (tokens,). The training text; read for `skip-gram` alone.
        width: Of the embedding.
        seed: Of all that is drawn.
        say: Told how far it is, and how many tokens have a vector.

    Returns:
        float32 (vocab, width).

    Raises:
        ConfigError: the file cannot be read, is not one of vectors, has another width or none of the tokens.
        CorpusError: there is no word to learn a vector of.
    """
    texts = [tokenizer.decode([token_id]) for token_id in range(len(tokenizer.tokens))]
    has_text = np.array([bool(text) for text in texts])
    if source.replace("_", "").lower() == SKIP_GRAM.replace("-", "") and not Path(source).exists():
        raise ConfigError(f"embedding_init {source}: no such file; to learn vectors from the corpus it is {SKIP_GRAM}")
    if source == SKIP_GRAM:
        vectors, is_known = _learn(ids, has_text, tokenizer.special.end, width, seed, say)
    else:
        vectors, is_known = _read(Path(source), texts, width, say)
    rng = np.random.default_rng([seed, 1])
    missing, special = has_text & ~is_known, ~has_text
    known = vectors[is_known]
    # Of a single vector, or of equal ones, there is no deviation: words must not begin alike.
    vectors[missing] = rng.normal(known.mean(), known.std() or KERAS_RANGE, (missing.sum(), width))
    vectors[special] = rng.uniform(-KERAS_RANGE, KERAS_RANGE, (special.sum(), width))
    return vectors


def _learn(
    ids: np.ndarray, has_text: np.ndarray, end: int | None, width: int, seed: int, say: Callable[[str], None]
) -> tuple[np.ndarray, np.ndarray]:
    is_known = has_text & (count_tokens(ids, len(has_text)) > 0)
    if not is_known.any():
        raise CorpusError(f"embedding_init {SKIP_GRAM}: none of the {len(ids):,} tokens to learn from has text")
    is_end = end is not None and not has_text[end]
    vectors = skip_gram(ids, has_text, end if is_end else None, width, seed, say)
    return vectors * (SKIP_GRAM_STD / vectors[is_known].std()), is_known


def _read(path: Path, texts: list[str], width: int, say: Callable[[str], None]) -> tuple[np.ndarray, np.ndarray]:
    names = [_names(text) for text in texts]
    found = read_vectors(path, {name for both in names for name in both}, width)
    vectors, is_known = np.zeros((len(texts), width), np.float32), np.zeros(len(texts), bool)
    for token_id, both in enumerate(names):
        name = next((name for name in both if name in found), None)
        if name is not None:
            vectors[token_id], is_known[token_id] = found[name], True
    missing = [text for text, known in zip(texts, is_known, strict=True) if text and not known]
    _tell_found(path, int(is_known.sum()), missing, say)
    return vectors, is_known


def _names(text: str) -> tuple[bytes, ...]:
    """Return what a token may be called in a file, in UTF-8, the best first.

    A space before a word belongs to it only here. White space stands in no such file, nor does what is no whole
    character.
    """
    if not text.strip() or "\ufffd" in text:
        return ()
    return text.encode(errors="surrogatepass"), text.strip().encode(errors="surrogatepass")


def _tell_found(path: Path, num_found: int, missing: list[str], say: Callable[[str], None]) -> None:
    total = num_found + len(missing)
    examples = ", ".join(map(repr, missing[:SHOWN_MISSING])) + (" …" if missing[SHOWN_MISSING:] else "")
    if not num_found:
        raise ConfigError(f"embedding_init {path}: it has none of the {total:,} tokens of the vocabulary: {examples}")
    absent = f"; it has no {examples}" if missing else ""
    say(f"embedding from {path}: vectors of {num_found:,} of {total:,} tokens ({num_found / total:.1%}){absent}")
