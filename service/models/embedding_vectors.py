"""A version's token embeddings from its files: nearest neighbors of a token, and a 2-D projection of all tokens.

https://projector.tensorflow.org reads the file of vectors, too.
"""

import logging
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from contract import signatures
from contract.files import open_regular
from contract.tokenizers import Tokenizer
from service.caches import SingleFlightCache
from service.errors import InvalidRequest, NotFound
from service.models.registry import ServedModel
from service.scheduling.sequence import ModelVersion

log = logging.getLogger(__name__)

# Memory limit of the LRU cache of embeddings; the exporter writes at most some 16 MB.
MAX_CACHE_BYTES = 64 * 2**20
# Bytes of a parsing step, which holds the GIL for 1.6 ms. 104 MB in one step held it for 2 s.
_READ_BYTES = 64 * 2**10
# Vectors of a computing step.
_STEP = 1024
# Approximate memory of an entry of `ids_by_text`: the string, and its slot in the dictionary.
_TEXT_BYTES = 200


class Vectors:
    """The embedding vectors of a version's tokens, by token id."""

    def __init__(self, rows: np.ndarray, hidden: Collection[int], ids_by_text: Mapping[str, int]) -> None:
        """Compute the norms and the projection onto the first two principal components, in steps.

        Args:
            rows: float32 (tokens, width).
            hidden: Tokens without text, such as special ones: never returned as neighbors.
            ids_by_text: By the texts of tokens and by their names.
        """
        self.rows, self.ids_by_text = rows, ids_by_text
        self.hidden = [token_id for token_id in hidden if token_id < len(rows)]
        self._ids = np.setdiff1d(np.arange(len(rows)), self.hidden)
        self._plane, self._explained = _principal_plane(rows, self._ids)
        self._lengths = np.linalg.norm(rows, axis=1)

    @property
    def num_bytes(self) -> int:
        arrays = (self.rows, self._lengths, self._ids, self._plane)
        return sum(array.nbytes for array in arrays) + _TEXT_BYTES * len(self.ids_by_text)

    def neighbors(self, token_id: int, count: int) -> list[tuple[int, float]]:
        """Return the ids of the nearest tokens and the cosine similarity of each, nearest first."""
        tiny = np.finfo(np.float32).tiny
        unit = self.rows[token_id] / max(self._lengths[token_id], tiny)
        cosines = self.rows @ unit / np.maximum(self._lengths, tiny)
        cosines[[token_id, *self.hidden]] = -np.inf
        threshold = np.partition(cosines, -count)[-count] if count < len(cosines) else -np.inf
        nearest = np.flatnonzero(cosines >= threshold)
        nearest = nearest[np.argsort(-cosines[nearest], kind="stable")][:count]
        return [(int(neighbor), float(cosines[neighbor])) for neighbor in nearest if np.isfinite(cosines[neighbor])]

    def map(self, count: int) -> tuple[np.ndarray, np.ndarray, tuple[float, float]]:
        """Return the ids of the first tokens, their projection, and the explained variance ratio of each axis."""
        return self._ids[:count], self._plane[:count], self._explained


def _principal_plane(rows: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    """Project the vectors onto their first two principal components.

    The covariance matrix is accumulated in steps, without a second copy of all vectors: 20,000 vectors of width 512
    took 0.1 s and 4 MB. If there are fewer vectors than dimensions, the Gram matrix replaces it, as both have the same
    eigenvalues: 488 vectors of width 8192 would take minutes otherwise.

    Returns float32 (ids, 2), and the explained variance ratio of each axis.
    """
    plane = np.zeros((len(ids), 2), np.float32)
    if not len(ids):
        return plane, (0.0, 0.0)
    mean = rows[ids].mean(axis=0, dtype=float)
    axes, variances = _principal_axes(rows, ids, mean)
    for start in range(0, len(ids), _STEP):
        plane[start : start + _STEP, : axes.shape[1]] = (rows[ids[start : start + _STEP]] - mean) @ axes
    total = max(float(variances.sum()), np.finfo(float).tiny)
    first, second = [*(float(variance / total) for variance in variances[:2]), 0.0][:2]
    return plane, (first, second)


def _principal_axes(rows: np.ndarray, ids: np.ndarray, mean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the axes of the plane, float64 (width, at most 2), and all variances, the largest first."""
    width = rows.shape[1]
    if len(ids) < width:
        centered = rows[ids] - mean
        variances, weights = np.linalg.eigh(centered @ centered.T)
        axes = centered.T @ weights[:, ::-1][:, :2]
        axes /= np.maximum(np.linalg.norm(axes, axis=0), np.finfo(float).tiny)
    else:
        covariance = np.zeros((width, width))
        for start in range(0, len(ids), _STEP):
            centered = (rows[ids[start : start + _STEP]] - mean).astype(np.float32)
            covariance += centered.T @ centered
        variances, axes = np.linalg.eigh(covariance)
        axes = axes[:, ::-1][:, :2]
    # The sign of an axis is arbitrary: make its largest component positive, so that the projection is reproducible.
    signs = np.sign(axes[np.abs(axes).argmax(axis=0), range(axes.shape[1])])
    return axes * signs, np.maximum(variances[::-1], 0)


class VectorFiles:
    """A thread-safe LRU cache of the versions' vectors, which reads each file once."""

    def __init__(self, models_dir: Path, max_bytes: int = MAX_CACHE_BYTES) -> None:
        self._models_dir = models_dir
        self._cache: SingleFlightCache[tuple[ModelVersion, str], Vectors] = SingleFlightCache(max_bytes)

    def of(self, model: ServedModel) -> Vectors:
        """Return the vectors of a version; raise NotFound if it has none, like some imported models."""
        # A version number may be reused, and copied weights may have another tokenizer.
        key = (model.ref, model.card.weights_sha256)
        return self._cache.get(key, partial(self._read, model))

    def _read(self, model: ServedModel) -> Vectors:
        path = self._models_dir / model.ref.name / str(model.ref.number) / signatures.ASSETS / signatures.VECTORS_FILE
        try:
            rows = _read_rows(path, len(model.tokenizer.tokens))
            return Vectors(rows, model.tokenizer.textless_ids, _ids_by_text(model.tokenizer))
        except (OSError, ValueError) as error:
            if not isinstance(error, FileNotFoundError):
                log.warning("%s cannot be read: %s", path, error)
            raise NotFound(
                f"the embedding of version {model.ref.number} of model {model.ref.name!r} is unavailable"
            ) from None


def _read_rows(path: Path, max_rows: int) -> np.ndarray:
    """Read a table of finite numbers, with at most `max_rows` lines, in steps; raise ValueError if it is not one."""
    with open_regular(path) as file:
        width = file.readline().count(b"\t") + 1
        file.seek(0)
        rows, num_rows = np.empty((max_rows, width), np.float32), 0
        while lines := file.readlines(_READ_BYTES):
            numbers = np.fromstring(b"".join(lines), np.float32, sep=" ").reshape(len(lines), width)
            if not np.isfinite(numbers).all():
                raise ValueError("a number is not finite")
            rows[num_rows : num_rows + len(lines)] = numbers
            num_rows += len(lines)
    if not num_rows:
        raise ValueError("it is empty")
    return rows[:num_rows]


def _ids_by_text(tokenizer: Tokenizer) -> dict[str, int]:
    """Return token ids by name and by text; of duplicates, the first."""
    ids: dict[str, int] = {}
    label = tokenizer.detokenizer().label
    for token_id, name in enumerate(tokenizer.tokens):
        ids.setdefault(name, token_id)
        ids.setdefault(label(token_id), token_id)
    return ids


def find_token(model: ServedModel, vectors: Vectors, text: str) -> int:
    """Return the id of a token by its name or its text; raise InvalidRequest if it is not one token with a vector."""
    token_id = vectors.ids_by_text.get(text)
    ids = model.tokenizer.encode(text) if token_id is None else [token_id]
    if len(ids) != 1:
        raise InvalidRequest(
            f"token must be one token of the model, got {text[:40]!r}, which is {len(ids)}", param="token"
        )
    if ids[0] >= len(vectors.rows):
        raise InvalidRequest(f"token must be among the first {len(vectors.rows)}, which have vectors", param="token")
    return ids[0]
