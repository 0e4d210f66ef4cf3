"""The configuration files of the model repository: served models, version labels and traffic splits.

While a file is damaged, its last valid content is used. Knows files. Does not know what is served.
"""

from pathlib import Path
from typing import Any

from google.protobuf import text_format

from contract import signatures
from contract.errors import LabelsError
from contract.files import read_file
from contract.labels import LABELS_FILE, Labels, read_labels
from contract.models_config import VersionPolicy, folder_of, version_numbers
from service.backends.prober import BackendErrors
from service.backends.protos import model_server_config_pb2
from service.backends.routing import RoutingError, Shares, read_shares


class RepositoryConfig:
    """The last valid content of `models.config`, `labels.json` and `routing.toml`.

    Attributes:
        labels: The version of each label, by model in `models.config`.
        wanted: The versions to be served, by model, from its version policy and its directory; None: unknown.
        shares: Traffic split by model.
        is_read: Whether `models.config` has been read.
        has_labels: Whether `labels.json` has been read, or its absence established.
    """

    def __init__(self, models_dir: Path, errors: BackendErrors) -> None:
        self._models_dir, self._errors = models_dir, errors
        self.labels: dict[str, dict[str, int]] = {}
        self.wanted: dict[str, frozenset[int] | None] = {}
        self.shares: dict[str, Shares] = {}
        self.is_read = self.has_labels = False
        self._labels: Labels = {}

    def read(self) -> None:
        """Read all three files; one that cannot be read changes nothing and is logged once."""
        path = self._models_dir / signatures.MODELS_CONFIG
        try:
            text = read_file(path).decode()
        except (OSError, UnicodeDecodeError) as error:
            # The whole repository may be unavailable: then the absence of the other files means nothing.
            self._errors.add(str(path), getattr(error, "strerror", None) or str(error))
            return
        self._read_labels()
        self._read_shares()
        self._read_models(path, text)

    def _read_models(self, path: Path, text: str) -> None:
        try:
            config = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
        except text_format.ParseError as error:
            self._errors.add(str(path), str(error))
            return
        if not config.HasField("model_config_list"):
            # An empty file parses as a valid message, but a repository without models has an empty list.
            self._errors.add(str(path), "it has no model_config_list")
            return
        self._errors.clear(str(path))
        self.labels = {
            entry.name: {**entry.version_labels, **self._labels.get(entry.name, {})}
            for entry in config.model_config_list.config
        }
        self.wanted = {entry.name: self._wanted(entry) for entry in config.model_config_list.config}
        self.is_read = True

    def _wanted(self, entry: Any) -> frozenset[int] | None:
        """Return the versions that TensorFlow Serving serves for an entry; None if its directory is unknown."""
        folder = folder_of(entry, self._models_dir)
        if folder is None:
            return None
        try:
            return VersionPolicy.of(entry).select(version_numbers(self._models_dir / folder))
        except OSError:
            return frozenset()

    def _read_labels(self) -> None:
        try:
            labels = read_labels(self._models_dir)
        except LabelsError as error:
            self._errors.add(LABELS_FILE, str(error))
            return
        if self._labels and not (self._models_dir / LABELS_FILE).exists():
            # Exporters never delete the file.
            self._errors.add(
                LABELS_FILE, "it is missing; the last content stays in effect. Write {} to it to remove all labels"
            )
            return
        self._errors.clear(LABELS_FILE)
        self._labels, self.has_labels = labels, True

    def _read_shares(self) -> None:
        try:
            self.shares = read_shares(self._models_dir / signatures.ROUTING_FILE)
        except RoutingError as error:
            # If no valid file was ever read, all requests go to the stable version.
            self._errors.add(signatures.ROUTING_FILE, str(error))
            return
        self._errors.clear(signatures.ROUTING_FILE)
