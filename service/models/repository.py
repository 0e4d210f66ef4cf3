"""The files of the model repository: served models, version labels, traffic splits, cards and tokenizers.

While a file is damaged, its last valid content is used.
"""

import contextlib
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from google.protobuf import text_format

from contract import signatures
from contract.card import load_assets
from contract.errors import ContractError
from contract.files import read_file
from contract.models_config import (
    LABELS_FILE,
    Labels,
    Shares,
    VersionPolicy,
    folder_of,
    read_labels,
    read_shares,
    version_numbers,
)
from service.backends.health_checks import Assets, RepeatedErrors
from service.backends.messages import model_server_config_pb2
from service.models.precision import choose_precision
from service.reloading_file import stamp
from service.scheduling.sequence import ModelVersion
from service.settings import Precision


@dataclass(frozen=True)
class ListedModel:
    """A model in `models.config`.

    Attributes:
        labels: The version of each label.
        existing: Versions in its directory, ascending; () if that is unknown.
        wanted: Versions that TensorFlow Serving serves, by their policy; None if the directory is unknown.
    """

    labels: Mapping[str, int]
    existing: tuple[int, ...]
    wanted: frozenset[int] | None


def parse_entries(text: str) -> list[Any]:
    """Return the `ModelConfig` of each model in the text of `models.config`; raise `ParseError` if it is damaged."""
    config = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    if not config.HasField("model_config_list"):
        # An empty file parses as a valid message, but a repository without models has an empty list.
        raise text_format.ParseError("it has no model_config_list")
    return list(config.model_config_list.config)


class RepositoryConfig:
    """The last valid content of `models.config`, `labels.json` and `routing.toml`."""

    def __init__(self, models_dir: Path, errors: RepeatedErrors) -> None:
        self._models_dir, self._errors = models_dir, errors
        # By name; replaced as a whole, as requests read them on other threads.
        self.models: Mapping[str, ListedModel] = {}
        self.shares: Mapping[str, Shares] = {}
        self.is_read = False  # `models.config`
        self.has_labels = False  # whether `models` has the labels of `labels.json`, or that file is known to be absent
        self._labels: Labels | None = None

    def read(self) -> None:
        """Read all three files; one that cannot be read changes nothing and is logged once."""
        path = self._models_dir / signatures.MODELS_CONFIG
        try:
            text = read_file(path).decode()
        except (OSError, UnicodeDecodeError) as error:
            # The whole repository may be unavailable: then the absence of the other files means nothing.
            self._errors.add(str(path), getattr(error, "strerror", None) or str(error))
            return
        self._try(LABELS_FILE, self._read_labels)
        # If no valid file was ever read, all requests go to the stable version.
        self._try(signatures.ROUTING_FILE, self._read_shares)
        self._try(str(path), partial(self._read_models, text))

    def _try(self, subject: str, read: Callable[[], None]) -> None:
        try:
            read()
            self._errors.clear(subject)
        except (ContractError, text_format.ParseError) as error:
            self._errors.add(subject, str(error))

    def _read_models(self, text: str) -> None:
        self.models = {entry.name: self._listed(entry) for entry in parse_entries(text)}
        self.is_read, self.has_labels = True, self._labels is not None

    def _listed(self, entry: Any) -> ListedModel:
        labels = {**entry.version_labels, **(self._labels or {}).get(entry.name, {})}
        folder = folder_of(entry, self._models_dir)
        if folder is None:
            return ListedModel(labels, (), None)
        try:
            existing = tuple(version_numbers(self._models_dir / folder))
        except OSError:
            existing = ()
        return ListedModel(labels, existing, VersionPolicy.of(entry).select(existing))

    def _read_labels(self) -> None:
        labels = read_labels(self._models_dir)
        if self._labels and not (self._models_dir / LABELS_FILE).exists():
            # Exporters never delete the file.
            raise ContractError("it is missing; the last content stays in effect. Write {} to it to remove all labels")
        self._labels = labels

    def _read_shares(self) -> None:
        self.shares = read_shares(self._models_dir / signatures.ROUTING_FILE)


class VersionFiles:
    """The cards and tokenizers of versions, by thread-safe reads."""

    def __init__(self, models_dir: Path, errors: RepeatedErrors, precisions: Mapping[str, Precision]) -> None:
        self._models_dir, self._errors, self._precisions = models_dir, errors, precisions
        self._assets: dict[ModelVersion, Assets] = {}

    def load(self, ref: ModelVersion) -> Assets:
        """Return a version's files; reload replaced ones, keep the last ones while they are damaged.

        Raises:
            ContractError: they cannot be read, and never could.
        """
        home = self._models_dir / ref.name / str(ref.number)
        path = home / signatures.ASSETS / signatures.CARD_FILE
        cached, current = self._assets.get(ref), stamp(path)
        if cached is not None and current in (None, cached.stamp):
            return cached
        what = f"files of {ref.name}:{ref.number}"
        try:
            card, tokenizer = load_assets(home)
        except ContractError as error:
            if cached is None:
                raise
            self._errors.add(what, f"the last content stays in effect: {error}")
            return cached
        self._errors.clear(what)
        precision = choose_precision(ref, card, self._precisions)
        loaded = self._assets[ref] = Assets(card, tokenizer, precision, current, *_sizes(home))
        return loaded

    def get(self, ref: ModelVersion) -> Assets | None:
        """Return a version's files as last loaded, or None; read nothing."""
        return self._assets.get(ref)

    def keep(self, versions: Collection[ModelVersion]) -> None:
        """Drop the files of all other versions."""
        for ref in [ref for ref in list(self._assets) if ref not in versions]:
            self._assets.pop(ref, None)


def _sizes(home: Path) -> tuple[int, int]:
    """Return the size in bytes of a version's files, and of its weights alone."""
    sizes: dict[Path, int] = {}
    for folder, _, names in os.walk(home):
        for path in (Path(folder, name) for name in names):
            # Perhaps only the model server may read it, or the version is being removed.
            with contextlib.suppress(OSError):
                sizes[path] = path.stat().st_size
    weights = sum(size for path, size in sizes.items() if path.match("variables/variables.data-*"))
    return sum(sizes.values()), weights
