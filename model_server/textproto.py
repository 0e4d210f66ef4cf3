"""Files in protobuf's text format, parsed as TensorFlow Serving parses them.

Knows parsing and its error messages. Two of TensorFlow Serving's messages are missing in the package
`tensorflow-serving-api`; they are declared here, as in its `session_bundle_config.proto` and `ssl_config.proto`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from google.protobuf import descriptor_pool, message_factory, text_format, wrappers_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.message import Message

from contract.files import read_file
from model_server.errors import ConfigError

M = TypeVar("M", bound=Message)
T = TypeVar("T")

_DECLARED = """
name: "model_server/textproto.proto" package: "tensorflow.serving" syntax: "proto3"
dependency: "google/protobuf/wrappers.proto"
message_type {
  name: "BatchingParameters"
  field { name: "max_batch_size" number: 1 type: TYPE_MESSAGE type_name: ".google.protobuf.Int64Value" }
  field { name: "batch_timeout_micros" number: 2 type: TYPE_MESSAGE type_name: ".google.protobuf.Int64Value" }
  field { name: "max_enqueued_batches" number: 3 type: TYPE_MESSAGE type_name: ".google.protobuf.Int64Value" }
  field { name: "num_batch_threads" number: 4 type: TYPE_MESSAGE type_name: ".google.protobuf.Int64Value" }
  field { name: "thread_pool_name" number: 5 type: TYPE_MESSAGE type_name: ".google.protobuf.StringValue" }
  field { name: "allowed_batch_sizes" number: 6 type: TYPE_INT64 label: LABEL_REPEATED }
  field { name: "pad_variable_length_inputs" number: 7 type: TYPE_BOOL }
}
message_type {
  name: "SSLConfig"
  field { name: "server_key" number: 1 type: TYPE_STRING }
  field { name: "server_cert" number: 2 type: TYPE_STRING }
  field { name: "custom_ca" number: 3 type: TYPE_STRING }
  field { name: "client_verify" number: 4 type: TYPE_BOOL }
}
"""


def _declared() -> dict[str, type[Message]]:
    # A separate pool: in the default pool the names would clash with a release that contains these messages.
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(text_format.Parse(_DECLARED, FileDescriptorProto()).SerializeToString())
    file = pool.FindFileByName("model_server/textproto.proto")
    return {name: message_factory.GetMessageClass(kind) for name, kind in file.message_types_by_name.items()}


_MESSAGES = _declared()
BatchingParameters = _MESSAGES["BatchingParameters"]
SSLConfig = _MESSAGES["SSLConfig"]


def read(path: Path, kind: type[M], name: str, convert: Callable[[M], T], *, is_secret: bool = False) -> T:
    """Read, parse and convert a file; `name` is that of this kind of file in error messages.

    Of a secret, messages contain only the position of the error, none of the content.

    Raises:
        ConfigError: the file cannot be read or parsed, or `convert` raised one; the message is one line and names the
            file.
    """
    try:
        content = read_file(path)
        if not content:
            # TensorFlow memory-maps the file, which fails for an empty one.
            raise ConfigError(f"{path}: cannot be read (Invalid argument: the file is empty)")
        message = text_format.Parse(content, kind())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise _invalid(path, name, _position(error) if is_secret else error) from error
    try:
        return convert(message)
    except ConfigError as error:
        raise _invalid(path, name, error) from error


def _position(error: Exception) -> str:
    if isinstance(error, text_format.ParseError) and error.GetLine():
        return f"error in line {error.GetLine()}, column {error.GetColumn()}"
    return "it is not UTF-8 text"


def _invalid(path: Path, name: str, reason: object) -> ConfigError:
    """Return the error for a readable but invalid file, as one line."""
    return ConfigError(f"{path}: invalid {name} ({' '.join(str(reason).split())})")
