"""A model's embedding as its version's files have it: which tokens lie beside a token, and a map of all of them.

Knows the file of vectors (https://projector.tensorflow.org reads it, too). Does not know requests.
"""

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from contract import signatures
from contract.tokenizer import Tokenizer
from service.backends.registry import ServedModel
from service.backends.single_flight import SingleFlightCache
from service.errors import InvalidRequest, NotFound
from service.scheduling.sequence import ModelVersion

log = logging.getLogger(__name__)

# Memory for embeddings, those used last; the largest that the exporter writes has some 16 MB.
MAX_CACHE_BYTES = 128 * 2**20
# A step of reading: 1.6 ms without the interpreter's lock for anybody else. All at once, 104 MB took it for 2 s.
_READ_BYTES = 64 * 2**10
# Vectors of a step of computing, and of tokens whose texts are looked up.
_STEP = 1024
# Of an entry of `ids_by_text`, roughly: the string, and its place in the dictionary.
_TEXT_BYTES = 200

# Called between two steps; raises if the work is not wanted any more.
Checkpoint = Callable[[], None]


def _requeue() -> None:
    """Let the work go on."""


@dataclass(frozen=True, eq=False)
class Vectors:
    """The vectors of a version's tokens, by their ids from 0 on.

    Attributes:
        rows: float32 (tokens, width).
        lengths: float32 (tokens,), the Euclidean norm of each.
        hidden: Ids that stand for no text, as marks and padding: nobody's neighbours.
        ids: int64 (shown,), those of the others.
        plane: float32 (shown, 2), where they lie in the plane in which they differ most (principal components).
        explained: Which share of the variance each axis has.
        ids_by_text: Ids by the texts of tokens and by their names.
    """

    rows: np.ndarray
    lengths: np.ndarray
    hidden: frozenset[int]
    ids: np.ndarray
    plane: np.ndarray
    explained: tuple[float, float]
    ids_by_text: Mapping[str, int]

    @classmethod
    def of(
        cls,
        rows: np.ndarray,
        hidden: frozenset[int],
        ids_by_text: Mapping[str, int],
        checkpoint: Checkpoint = _requeue,
    ) -> "Vectors":
        """Compute the lengths and the plane, in steps."""
        ids = np.array([token_id for token_id in range(len(rows)) if token_id not in hidden], np.int64)
        plane, explained = _principal_plane(rows, ids, checkpoint)
        lengths = np.linalg.norm(rows, axis=1)
        present = frozenset(token_id for token_id in hidden if token_id < len(rows))
        return cls(rows, lengths, present, ids, plane, explained, ids_by_text)

    @property
    def num_bytes(self) -> int:
        """Return the memory that they occupy."""
        arrays = (self.rows, self.lengths, self.ids, self.plane)
        return sum(array.nbytes for array in arrays) + _TEXT_BYTES * len(self.ids_by_text)

    def neighbors(self, token_id: int, count: int) -> list[tuple[int, float]]:
        """Return the ids of the nearest tokens and the cosine of the angle to each, nearest first."""
        tiny = np.finfo(np.float32).tiny
        unit = self.rows[token_id] / max(self.lengths[token_id], tiny)
        cosines = self.rows @ unit / np.maximum(self.lengths, tiny)
        cosines[[token_id, *self.hidden]] = -np.inf
        least = np.partition(cosines, -count)[-count] if count < len(cosines) else -np.inf
        nearest = np.flatnonzero(cosines >= least)
        nearest = nearest[np.argsort(-cosines[nearest], kind="stable")][:count]
        return [(int(place), float(cosines[place])) for place in nearest if np.isfinite(cosines[place])]

    def map(self, count: int) -> tuple[np.ndarray, np.ndarray, tuple[float, float]]:
        """Return the ids of the first tokens, their places in the plane, and the share of variance of each axis."""
        return self.ids[:count], self.plane[:count], self.explained


def _principal_plane(
    rows: np.ndarray, ids: np.ndarray, checkpoint: Checkpoint
) -> tuple[np.ndarray, tuple[float, float]]:
    """Compute the first two principal components.

    The covariance is summed up in steps, so that no second copy of all vectors is needed: 20,000 of 512 numbers took
    0.1 s and 4 MB. Where there are fewer vectors than numbers in each, the products of vectors take its place, as both
    have the same eigenvalues: 488 vectors of 8192 numbers would take minutes otherwise.

    Returns:
        float32 (ids, 2), and the share of the variance that each axis has.
    """
    plane = np.zeros((len(ids), 2), np.float32)
    if not len(ids):
        return plane, (0.0, 0.0)
    mean = rows[ids].mean(axis=0, dtype=float)
    axes, variances = _principal_axes(rows, ids, mean, checkpoint)
    for start in range(0, len(ids), _STEP):
        checkpoint()
        plane[start : start + _STEP, : axes.shape[1]] = (rows[ids[start : start + _STEP]] - mean) @ axes
    total = max(float(variances.sum()), np.finfo(float).tiny)
    first, second = [*(float(variance / total) for variance in variances[:2]), 0.0][:2]
    return plane, (first, second)


def _principal_axes(
    rows: np.ndarray, ids: np.ndarray, mean: np.ndarray, checkpoint: Checkpoint
) -> tuple[np.ndarray, np.ndarray]:
    """Return the axes of the plane, float64 (width, at most 2), and all variances, the largest first."""
    width = rows.shape[1]
    if len(ids) < width:
        centred = rows[ids] - mean
        variances, weights = np.linalg.eigh(centred @ centred.T)
        axes = centred.T @ weights[:, ::-1][:, :2]
        axes /= np.maximum(np.linalg.norm(axes, axis=0), np.finfo(float).tiny)
    else:
        covariance = np.zeros((width, width))
        for start in range(0, len(ids), _STEP):
            checkpoint()
            centred = (rows[ids[start : start + _STEP]] - mean).astype(np.float32)
            covariance += centred.T @ centred
        variances, axes = np.linalg.eigh(covariance)
        axes = axes[:, ::-1][:, :2]
    # An axis has two directions: the one along its largest part, so that the map is the same every time.
    signs = np.sign(axes[np.abs(axes).argmax(axis=0), range(axes.shape[1])])
    return axes * signs, np.maximum(variances[::-1], 0)


class VectorFiles:
    """Reads the files of versions, each once, and keeps those used last; any thread may ask."""

    def __init__(self, models_dir: Path, max_bytes: int = MAX_CACHE_BYTES) -> None:
        """Prepare.

        Args:
            models_dir: The model repository.
            max_bytes: Memory for vectors.
        """
        self._models_dir = models_dir
        self._cache: SingleFlightCache[tuple[ModelVersion, str], Vectors] = SingleFlightCache(max_bytes)

    def of(self, model: ServedModel, request: "Future[Vectors] | None" = None) -> Vectors:
        """Return the vectors of a version.

        Args:
            model: The version.
            request: To be cancelled when nobody waits any more; a version that nobody waits for is not read.

        Raises:
            NotFound: it has none, as of models from elsewhere they are not always known.
            CancelledError: the request was cancelled.
        """
        # A number may be given to another version, and a copy of the weights may have another tokenizer.
        key = (model.ref, model.card.weights_sha256)
        return self._cache.get(key, partial(self._read, model), Future() if request is None else request)

    def _read(self, model: ServedModel, checkpoint: Checkpoint) -> Vectors:
        path = self._models_dir / model.ref.name / str(model.ref.version) / signatures.ASSETS / signatures.VECTORS_FILE
        try:
            rows = _read_rows(path, len(model.tokenizer.tokens), checkpoint)
            return Vectors.of(rows, _hidden(model.tokenizer), _ids_by_text(model.tokenizer, checkpoint), checkpoint)
        except (OSError, ValueError) as error:
            if not isinstance(error, FileNotFoundError):
                log.warning("%s cannot be read: %s", path, error)
            raise NotFound(
                f"the embedding of version {model.ref.version} of model {model.ref.name!r} is not known"
            ) from None


def _read_rows(path: Path, max_rows: int, checkpoint: Checkpoint) -> np.ndarray:
    """Read a file of vectors in steps.

    Raises:
        OSError: there is none.
        ValueError: it is not a table of numbers, or has more than `max_rows` lines.
    """
    with path.open("rb") as file:
        width = file.readline().count(b"\t") + 1
        file.seek(0)
        rows, num_rows = np.empty((max_rows, width), np.float32), 0
        while lines := file.readlines(_READ_BYTES):
            checkpoint()
            numbers = np.fromstring(b"".join(lines), np.float32, sep=" ").reshape(len(lines), width)
            if not np.isfinite(numbers).all():
                raise ValueError("a number is not finite")
            rows[num_rows : num_rows + len(lines)] = numbers
            num_rows += len(lines)
    if not num_rows:
        raise ValueError("there is nothing in it")
    return rows[:num_rows]


def _hidden(tokenizer: Tokenizer) -> frozenset[int]:
    return frozenset(token_id for token_id in vars(tokenizer.special).values() if token_id is not None)


def _ids_by_text(tokenizer: Tokenizer, checkpoint: Checkpoint) -> dict[str, int]:
    """Return the ids of tokens by their names and by their texts; of several, the first."""
    ids: dict[str, int] = {}
    label = tokenizer.detokenizer().label
    for token_id, name in enumerate(tokenizer.tokens):
        if not token_id % _STEP:
            checkpoint()
        ids.setdefault(name, token_id)
        ids.setdefault(label(token_id), token_id)
    return ids


def find_token(model: ServedModel, vectors: Vectors, text: str) -> int:
    """Return the id of a token by what it is called or by its text.

    Raises:
        InvalidRequest: it is none, or it has no vector.
    """
    known = vectors.ids_by_text.get(text)
    ids = model.tokenizer.encode(text) if known is None else [known]
    if len(ids) != 1:
        raise InvalidRequest(
            f"token must be one token of the model, got {text[:40]!r}, which is {len(ids)}", param="token"
        )
    if ids[0] >= len(vectors.rows):
        raise InvalidRequest(f"token must be among the first {len(vectors.rows)}, which have vectors", param="token")
    return ids[0]
