"""`models.config`: the served models and their base paths, as frozen data.

Knows TensorFlow Serving's text proto and its validation. Does not read the models.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tensorflow_serving.config import model_server_config_pb2

from contract.models_config import CONTAINER_ROOT, VersionPolicy
from model_server import textproto
from model_server.errors import ConfigError

PLATFORM = "tensorflow"


@dataclass(frozen=True)
class ModelConfig:
    """Config of one model.

    Attributes:
        base_path: Parent of its version directories, on this machine.
        labels: Version number of each label.
    """

    name: str
    base_path: Path
    policy: VersionPolicy
    labels: Mapping[str, int]


# By name.
ServerConfig = Mapping[str, ModelConfig]


def read_config(path: Path, models_root: Path | None = None) -> ServerConfig | None:
    """Read a config file, a text proto of `ModelServerConfig`. It may list no model: nothing is served then.

    `models_root` replaces `/models`; None is the directory of the file. Returns None if the file has no
    `model_config_list`, not even an empty one.

    Raises:
        ConfigError: the file cannot be read or is invalid; the message is one line and names the file.
    """

    def convert(message: model_server_config_pb2.ModelServerConfig) -> ServerConfig | None:
        has_config = message.WhichOneof("config") is not None
        return from_proto(message, models_root or path.absolute().parent) if has_config else None

    return textproto.read(path, model_server_config_pb2.ModelServerConfig, "models.config", convert)


def from_proto(message: model_server_config_pb2.ModelServerConfig, models_root: Path | None) -> ServerConfig:
    """Validate and convert a config; error messages are TensorFlow Serving's.

    The message has a `model_config_list`, or is empty. `models_root` replaces `/models`; None leaves base paths
    unchanged.

    Raises:
        ConfigError: a model is listed twice, or one of its fields is invalid.
    """
    if message.WhichOneof("config") == "custom_model_config":
        raise ConfigError("custom_model_config is not supported, only model_config_list is")
    models: dict[str, ModelConfig] = {}
    for entry in message.model_config_list.config:
        if entry.name in models:
            raise ConfigError(f"Illegal to list model {entry.name} multiple times in config list")
        models[entry.name] = _model(entry, models_root)
    return models


def single_model(name: str, base_path: Path) -> ServerConfig:
    """Return the config for `--model_name` and `--model_base_path`: the latest version of one model."""
    return {name: ModelConfig(name, base_path.absolute(), VersionPolicy(latest=1), {})}


def _model(entry: model_server_config_pb2.ModelConfig, models_root: Path | None) -> ModelConfig:
    if not entry.name:
        raise ConfigError("a model in model_config_list has no name")
    _check_platform(entry)
    path = PurePosixPath(entry.base_path)
    if not path.is_absolute():
        raise ConfigError(f"Expected model {entry.name} to have an absolute path, got base_path: {entry.base_path!r}")
    base_path = Path(path)
    if models_root is not None and path.is_relative_to(CONTAINER_ROOT):
        base_path = models_root / path.relative_to(CONTAINER_ROOT)
    return ModelConfig(entry.name, base_path, VersionPolicy.of(entry), dict(entry.version_labels))


def _check_platform(entry: model_server_config_pb2.ModelConfig) -> None:
    implied = PLATFORM if entry.model_type == model_server_config_pb2.TENSORFLOW else ""
    platform = entry.model_platform or implied
    if not platform:
        raise ConfigError(
            f"Model {entry.name}: Illegal setting neither ModelServerConfig::model_type (deprecated) nor "
            "ModelServerConfig::model_platform."
        )
    if platform != PLATFORM:
        raise ConfigError(f"Model {entry.name} requests unsupported platform {platform}")
