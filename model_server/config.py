"""The config files, all in protobuf's text format: `models.config`, and the TLS keys of the gRPC port.

TensorFlow Serving's `SSLConfig` is missing in the package `tensorflow-serving-api`; it is declared here, as in its
`ssl_config.proto`.
"""

import ssl
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import grpc
from google.protobuf import descriptor_pool, message_factory, text_format
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.message import Message
from tensorflow_serving.config import model_server_config_pb2
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from contract.files import read_file
from contract.models_config import CONTAINER_ROOT, VersionPolicy
from model_server.errors import ConfigError

T = TypeVar("T")
_PLATFORM = "tensorflow"
_DECLARED = """
name: "model_server/config.proto" package: "tensorflow.serving" syntax: "proto3"
message_type {
  name: "SSLConfig"
  field { name: "server_key" number: 1 type: TYPE_STRING }
  field { name: "server_cert" number: 2 type: TYPE_STRING }
  field { name: "custom_ca" number: 3 type: TYPE_STRING }
  field { name: "client_verify" number: 4 type: TYPE_BOOL }
}
"""


def _declared() -> type[Message]:
    # A separate pool: in the default pool the name would clash with a release that contains this message.
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(text_format.Parse(_DECLARED, FileDescriptorProto()).SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.serving.SSLConfig"))


SSLConfig = _declared()


def read_proto(
    path: Path, kind: type[Message], name: str, convert: Callable[[Any], T], *, is_secret: bool = False
) -> T:
    """Read, parse and convert a file; `name` is that of this kind of file in error messages.

    Of a secret, messages contain only the position of the error, none of the content.

    Raises:
        ConfigError: the file cannot be read or parsed, or `convert` raised one; the message is one line and names the
            file.
    """

    def invalid(reason: object) -> ConfigError:
        return ConfigError(f"{path}: invalid {name} ({' '.join(str(reason).split())})")

    try:
        content = read_file(path)
        if not content:
            # TensorFlow memory-maps the file, which fails for an empty one.
            raise ConfigError(f"{path}: cannot be read (Invalid argument: the file is empty)")
        message = text_format.Parse(content, kind())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except text_format.ParseError as error:
        if not error.GetLine():
            raise invalid("it is not UTF-8 text") from error
        raise invalid(f"error in line {error.GetLine()}, column {error.GetColumn()}" if is_secret else error) from error
    try:
        return convert(message)
    except ConfigError as error:
        raise invalid(error) from error


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


def read_config(path: Path, models_root: Path) -> ServerConfig | None:
    """Read a `ModelServerConfig`; it may list no model: nothing is served then.

    `models_root` replaces `/models`. Returns None if the file has no `model_config_list`, not even an empty one.
    """

    def convert(message: ModelServerConfig) -> ServerConfig | None:
        return from_proto(message, models_root) if message.WhichOneof("config") else None

    return read_proto(path, ModelServerConfig, "models.config", convert)


def from_proto(message: ModelServerConfig, models_root: Path) -> ServerConfig:
    """Validate and convert a config; `models_root` replaces `/models`. Messages are TensorFlow Serving's."""
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


def _model(entry: model_server_config_pb2.ModelConfig, models_root: Path) -> ModelConfig:
    if not entry.name:
        raise ConfigError("a model in model_config_list has no name")
    implied = _PLATFORM if entry.model_type == model_server_config_pb2.TENSORFLOW else ""
    platform = entry.model_platform or implied
    if not platform:
        raise ConfigError(
            f"Model {entry.name}: Illegal setting neither ModelServerConfig::model_type (deprecated) nor "
            "ModelServerConfig::model_platform."
        )
    if platform != _PLATFORM:
        raise ConfigError(f"Model {entry.name} requests unsupported platform {platform}")
    path = PurePosixPath(entry.base_path)
    if not path.is_absolute() or "\0" in entry.base_path:
        raise ConfigError(f"Expected model {entry.name} to have an absolute path, got base_path: {entry.base_path!r}")
    is_contained = path.is_relative_to(CONTAINER_ROOT)
    base_path = models_root / path.relative_to(CONTAINER_ROOT) if is_contained else Path(path)
    return ModelConfig(entry.name, base_path, VersionPolicy.of(entry), dict(entry.version_labels))


def read_credentials(path: Path) -> grpc.ServerCredentials:
    """Read an SSLConfig, which contains PEM texts, and verify them: gRPC would only fail to bind the port."""
    return read_proto(path, SSLConfig, "SSL config", _credentials, is_secret=True)


def _credentials(message: Any) -> grpc.ServerCredentials:
    for field in ("server_key", "server_cert", "custom_ca"):
        text = getattr(message, field)
        if "-----BEGIN " not in text and (text or field != "custom_ca"):
            raise ConfigError(f"{field} must be the contents of a PEM file, not its path")
    if message.client_verify and not message.custom_ca:
        raise ConfigError("client_verify requires custom_ca, the CA certificates of the clients")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # OpenSSL loads a pair only from a file; this one is readable by its owner only and deleted at once.
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
        file.write(f"{message.server_key}\n{message.server_cert}\n")
        file.flush()
        try:
            # With no password, OpenSSL would prompt for that of an encrypted key at the terminal.
            context.load_cert_chain(file.name, password="")
        except (ssl.SSLError, ValueError) as error:
            reason = getattr(error, "reason", None) or "PEM text is damaged"
            raise ConfigError(f"server_key and server_cert cannot be loaded as a pair: {reason}") from error
    if message.custom_ca:
        try:
            context.load_verify_locations(cadata=message.custom_ca)
        except (ssl.SSLError, ValueError) as error:
            raise ConfigError("custom_ca has no valid certificates") from error
    pair = message.server_key.encode(), message.server_cert.encode()
    return grpc.ssl_server_credentials([pair], message.custom_ca.encode() or None, message.client_verify)
