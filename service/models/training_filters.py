"""The training filters of versions, from their files."""

import logging
from pathlib import Path

from contract import signatures
from contract.errors import ContractError
from contract.training_filter import TrainingFilter, load_training_filter
from service.caches import SingleFlightCache
from service.errors import TrainingFilterUnusable
from service.models.registry import ServedModel
from service.reloading_file import Stamp, stamp

log = logging.getLogger(__name__)

# Memory limit of the LRU cache of filters. The largest fills it; loading one takes some 0.1 s, for its hash.
MAX_CACHE_BYTES = 64 * 2**20


class TrainingFilters:
    """Loads filters, checks them against the hash in the card, and caches those used last; thread-safe.

    They are not memory-mapped: if a mapped file is truncated, reading it kills the process (SIGBUS).
    """

    def __init__(self, models_dir: Path) -> None:
        self._models_dir = models_dir
        # By the hash in the card, as a version number may be reused.
        self._filters: SingleFlightCache[str, TrainingFilter] = SingleFlightCache(MAX_CACHE_BYTES)
        # Files that were unusable when last read: they are read again only after a change.
        self._unusable: dict[tuple[Path, str], tuple[Stamp, str]] = {}

    def get(self, model: ServedModel) -> TrainingFilter | None:
        """Return the filter of a version; None if its card describes none.

        Raise TrainingFilterUnusable if it describes one, but the file is missing, unreadable or has another hash.
        """
        described = model.card.training_filter
        if described is None:
            return None
        sha256 = described.sha256
        assets = self._models_dir / model.ref.name / str(model.ref.number) / signatures.ASSETS
        try:
            return self._filters.get(sha256, lambda: self._load(assets / signatures.TRAINING_FILTER_FILE, sha256))
        except ContractError:
            raise TrainingFilterUnusable(
                f"not_in_training is unavailable for model {model.ref.name!r}: the training filter of version "
                f"{model.ref.number} is missing or damaged; see the gateway's log",
                param="not_in_training",
            ) from None

    def _load(self, path: Path, sha256: str) -> TrainingFilter:
        key, current = (path, sha256), stamp(path)
        known = self._unusable.get(key)
        if known is not None and known[0] == current:
            raise ContractError(known[1])
        try:
            loaded = load_training_filter(path, sha256)
            problem = f"{path}: no such file, but the card describes it"
        except ContractError as error:
            loaded, problem = None, str(error)
        if loaded is None:
            log.error("%s", problem)
            self._unusable[key] = current, problem
            raise ContractError(problem)
        self._unusable.pop(key, None)
        return loaded
