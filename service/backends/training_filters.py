"""The training filters of versions, from their files.

Knows files. Does not know requests.
"""

import logging
import threading
from pathlib import Path

from contract import signatures
from contract.errors import TrainingFilterError
from contract.training_filter import TrainingFilter, load_training_filter
from service.backends.registry import ServedModel

log = logging.getLogger(__name__)


class TrainingFilters:
    """Loads filters, and keeps the most recently used ones; thread-safe.

    A filter's bits are memory-mapped, so each takes what its queries touch.
    """

    _MAX_FILTERS = 16

    def __init__(self, models_dir: Path) -> None:
        self._models_dir = models_dir
        self._lock = threading.Lock()
        # By the hash in the card, as a version number may be reused.
        self._filters: dict[str, TrainingFilter] = {}

    def get(self, model: ServedModel) -> TrainingFilter | None:
        """Return the filter of a version; None if it has none, or an unreadable one."""
        if model.card.training_filter is None:
            return None
        key = model.card.training_filter.sha256
        with self._lock:
            if key not in self._filters:
                path = self._models_dir / model.ref.name / str(model.ref.version) / signatures.ASSETS
                try:
                    loaded = load_training_filter(path / signatures.TRAINING_FILTER_FILE)
                except TrainingFilterError as error:
                    log.warning("%s", error)
                    return None
                if loaded is None:
                    return None
                if len(self._filters) == self._MAX_FILTERS:
                    del self._filters[next(iter(self._filters))]
                self._filters[key] = loaded
            # The dict is in the order of use.
            self._filters[key] = self._filters.pop(key)
            return self._filters[key]
