"""The files of the model repository that say which models are served, and who gets which version.

While a file is damaged, what was read last holds. Knows files. Does not know what is served.
"""

from pathlib import Path, PurePosixPath
from typing import Any

from google.protobuf import text_format

from contract import signatures
from contract.errors import LabelsError
from contract.labels import LABELS_FILE, Labels, read_labels
from service.backends.prober import BackendErrors
from service.backends.protos import model_server_config_pb2
from service.backends.routing import RoutingError, Shares, read_shares

# Base paths are those inside TensorFlow Serving's container.
_ROOT = PurePosixPath("/models")


class RepositoryConfig:
    """`models.config`, `labels.json` and `routing.toml`, as they were read last.

    Attributes:
        labels: Of each model in `models.config`, what its labels point at.
        wanted: Of each of them, the versions that are to be served, by its policy and its directory; None: not known.
        shares: By the model's name.
        is_read: Whether `models.config` could be read yet.
        has_labels: Whether `labels.json` could be; that there is none is known then, too.
    """

    def __init__(self, models_dir: Path, complaints: BackendErrors) -> None:
        """Prepare; nothing is read before `read`.

        Args:
            models_dir: The model repository.
            complaints: Takes what is wrong with the files.
        """
        self._models_dir, self._complaints = models_dir, complaints
        self.labels: dict[str, dict[str, int]] = {}
        self.wanted: dict[str, frozenset[int] | None] = {}
        self.shares: dict[str, Shares] = {}
        self.is_read = self.has_labels = False
        self._labels: Labels = {}

    def read(self) -> None:
        """Read all three; a file that cannot be read changes nothing, and is logged once."""
        path = self._models_dir / signatures.MODELS_CONFIG
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            # Maybe the whole repository is away: that there are no other files says nothing then.
            self._complaints.add(str(path), str(error))
            return
        self._read_labels()
        self._read_shares()
        self._read_models(path, text)

    def _read_models(self, path: Path, text: str) -> None:
        try:
            config = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
        except text_format.ParseError as error:
            self._complaints.add(str(path), str(error))
            return
        if not config.HasField("model_config_list"):
            # An empty file is a sound message. A repository without models has an empty list.
            self._complaints.add(str(path), "there is no model_config_list in it")
            return
        self._complaints.settle(str(path))
        self.labels = {
            entry.name: {**entry.version_labels, **self._labels.get(entry.name, {})}
            for entry in config.model_config_list.config
        }
        self.wanted = {entry.name: self._wanted(entry) for entry in config.model_config_list.config}
        self.is_read = True

    def _wanted(self, entry: Any) -> frozenset[int] | None:
        """Return the versions that a server serves by an entry, as TensorFlow Serving reads it."""
        path, policy = PurePosixPath(entry.base_path), entry.model_version_policy
        if path.parent not in (_ROOT, PurePosixPath(self._models_dir.resolve())):
            return None
        try:
            found = sorted(int(it.name) for it in (self._models_dir / path.name).iterdir() if it.name.isdecimal())
        except OSError:
            return frozenset()
        match policy.WhichOneof("policy_choice"):
            case "all":
                return frozenset(found)
            case "specific":
                return frozenset(policy.specific.versions) & frozenset(found)
        return frozenset(found[-max(policy.latest.num_versions, 1) :])

    def _read_labels(self) -> None:
        try:
            labels = read_labels(self._models_dir)
        except LabelsError as error:
            self._complaints.add(LABELS_FILE, str(error))
            return
        if self._labels and not (self._models_dir / LABELS_FILE).exists():
            # Exporters never delete it.
            self._complaints.add(LABELS_FILE, "it is gone, and what was read last holds; {} in it ends all labels")
            return
        self._complaints.settle(LABELS_FILE)
        self._labels, self.has_labels = labels, True

    def _read_shares(self) -> None:
        try:
            self.shares = read_shares(self._models_dir / signatures.ROUTING_FILE)
        except RoutingError as error:
            # Where none was ever read, all requests get what is stable.
            self._complaints.add(signatures.ROUTING_FILE, str(error))
            return
        self._complaints.settle(signatures.ROUTING_FILE)
