"""A model's embedding as its version's files have it: which tokens lie beside a token, and a map of all of them.

Knows the file of vectors (https://projector.tensorflow.org reads it, too). Does not know requests.
"""

import threading
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from contract import signatures
from service.errors import InvalidRequest, NotFound
from service.servers.catalog import LiveModel

# Embeddings that are kept in memory, those used last: the largest has some 16 MB.
MAX_KEPT = 4


@dataclass(frozen=True, eq=False)
class Vectors:
    """The vectors of a version's tokens, by their ids from 0 on.

    Attributes:
        rows: float32 (tokens, width).
        hidden: Ids that stand for no text, as marks and padding: nobody's neighbours.
    """

    rows: np.ndarray
    hidden: frozenset[int]

    def neighbors(self, token_id: int, count: int) -> list[tuple[int, float]]:
        """Return the ids of the nearest tokens and the cosine of the angle to each, nearest first."""
        units = self._units
        cosines = units @ units[token_id]
        cosines[[token_id, *self._hidden]] = -np.inf
        nearest = np.argsort(-cosines, kind="stable")[:count]
        return [(int(place), float(cosines[place])) for place in nearest if np.isfinite(cosines[place])]

    def plane(self, count: int) -> tuple[np.ndarray, np.ndarray, list[float]]:
        """Lay the first tokens out in the plane in which they differ most (principal components).

        Returns:
            int64 (tokens,), their ids; float32 (tokens, 2), where they are; and which share of all differences each
            axis shows.
        """
        ids = np.array([place for place in range(len(self.rows)) if place not in self.hidden][:count], np.int64)
        centred = self.rows[ids].astype(float)
        centred -= centred.mean(axis=0, keepdims=True) if len(ids) else 0
        variances, axes = np.linalg.eigh(centred.T @ centred)
        axes, variances = axes[:, ::-1][:, :2], variances[::-1]
        # An axis has two directions: the one along its largest part, so that the map is the same every time.
        axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), range(axes.shape[1])])
        total = max(float(variances.sum()), np.finfo(float).tiny)
        plane = np.zeros((len(ids), 2), np.float32)
        plane[:, : axes.shape[1]] = centred @ axes
        return ids, plane, [float(share / total) for share in variances[:2]]

    @property
    def _hidden(self) -> list[int]:
        return [place for place in self.hidden if place < len(self.rows)]

    @cached_property
    def _units(self) -> np.ndarray:
        lengths: np.ndarray = np.linalg.norm(self.rows, axis=1, keepdims=True)
        units: np.ndarray = self.rows / np.maximum(lengths, np.finfo(np.float32).tiny)
        return units


class VectorFiles:
    """Reads the files of versions, and keeps what was asked for last; any thread may ask."""

    def __init__(self, models_dir: Path) -> None:
        """Prepare.

        Args:
            models_dir: The model repository.
        """
        self._models_dir = models_dir
        self._kept: OrderedDict[str, Vectors] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, model: LiveModel) -> Vectors:
        """Return the vectors of a version.

        Raises:
            NotFound: it has none, as of models from elsewhere they are not always known.
        """
        with self._lock:
            key = model.card.weights_sha256
            vectors = self._kept.get(key) or self._read(model)
            self._kept[key] = vectors
            self._kept.move_to_end(key)
            while len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)
            return vectors

    def _read(self, model: LiveModel) -> Vectors:
        path = self._models_dir / model.ref.name / str(model.ref.version) / signatures.ASSETS / signatures.VECTORS_FILE
        try:
            content = path.read_text("ascii")
        except OSError:
            raise NotFound(
                f"the embedding of version {model.ref.version} of model {model.ref.name!r} is not known"
            ) from None
        width = content.partition("\n")[0].count("\t") + 1
        rows = np.fromstring(content, np.float32, sep=" ").reshape(-1, width)
        special = frozenset(token_id for token_id in vars(model.tokenizer.special).values() if token_id is not None)
        return Vectors(rows, special)


def find_token(model: LiveModel, vectors: Vectors, text: str) -> int:
    """Return the id of a token by what it is called or by its text.

    Raises:
        InvalidRequest: it is none, or it has no vector.
    """
    detokenizer, tokens = model.tokenizer.detokenizer(), model.tokenizer.tokens
    found = [place for place in range(len(tokens)) if text in (tokens[place], detokenizer.label(place))]
    ids = found or model.tokenizer.encode(text)
    if len(ids) != 1 and not found:
        raise InvalidRequest(
            f"token must be one token of the model, got {text[:40]!r}, which is {len(ids)}", param="token"
        )
    if ids[0] >= len(vectors.rows):
        raise InvalidRequest(f"token must be among the first {len(vectors.rows)}, which have vectors", param="token")
    return ids[0]
