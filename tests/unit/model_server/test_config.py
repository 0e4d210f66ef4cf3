"""Parsing and validation of models.config and of the TLS keys."""

import json
import re
import subprocess
from pathlib import Path

import pytest
from google.protobuf import text_format
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from contract.models_config import VersionPolicy
from model_server.config import ModelConfig, from_proto, read_config, read_credentials, single_model
from model_server.errors import ConfigError
from tests.certificates import make_certificate

ROOT = Path("/data")
PLATFORM = 'model_platform: "tensorflow"'


def parsed(entry):
    text = f"model_config_list {{ config {{ {entry} }} }}"
    return from_proto(text_format.Parse(text, ModelServerConfig()), ROOT)


@pytest.mark.parametrize(
    ("base_path", "expected"),
    [
        ("/models/a", "/data/a"),
        ("/models", "/data"),
        ("/elsewhere/a", "/elsewhere/a"),
        ("/models-old/a", "/models-old/a"),
    ],
)
def test_models_root_replaces_only_paths_below_slash_models(base_path, expected):
    assert parsed(f'name: "a" base_path: "{base_path}" {PLATFORM}')["a"].base_path == Path(expected)


def test_the_deprecated_model_type_still_means_tensorflow():
    assert parsed('name: "a" base_path: "/m" model_type: TENSORFLOW').keys() == {"a"}


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ('name: "a" base_path: "/m" model_platform: "caffe"', "requests unsupported platform caffe"),
        ('name: "a" base_path: "/m"', "model_platform"),
        (f'name: "a" base_path: "m" {PLATFORM}', "absolute path"),
        (f'name: "a" {PLATFORM}', "absolute path"),
        (f'name: "a" base_path: "/models/a\\000b" {PLATFORM}', "absolute path"),
    ],
)
def test_an_invalid_model_entry_is_refused(entry, told):
    with pytest.raises(ConfigError, match=told):
        parsed(entry)


@pytest.mark.parametrize(("text", "config"), [("model_config_list {}", {}), ("# nothing yet", None), ("\n", None)])
def test_an_empty_model_list_differs_from_no_list(tmp_path, text, config):
    """TensorFlow Serving unloads every model for an empty list, and keeps them without a list."""
    (tmp_path / "models.config").write_text(text)
    assert read_config(tmp_path / "models.config", ROOT) == config


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "cannot be read (Invalid argument: the file is empty)"),
        (None, "cannot be read (No such file or directory)"),
        (b"model_config_list {", "invalid models.config (1:19"),
        (b"models: 1", "invalid models.config (1:1"),
        (b"\xff\xfe", "invalid models.config (it is not UTF-8 text)"),
        (b"model_config_list { config {} }", "invalid models.config (a model in model_config_list has no name)"),
        (b"custom_model_config {}", "invalid models.config (custom_model_config is not supported"),
    ],
)
def test_an_invalid_config_file_is_an_error_of_one_line(tmp_path, content, told):
    file = tmp_path / "models.config"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_config(file, ROOT)
    assert str(caught.value).startswith(f"{file}: {told}")
    assert "\n" not in str(caught.value)


def test_a_single_model_serves_its_latest_version_from_an_absolute_path():
    """A relative path is resolved at once, so a later change of the working directory has no effect."""
    assert single_model("a", Path("m"))["a"] == ModelConfig("a", Path.cwd() / "m", VersionPolicy(latest=1), {})


@pytest.fixture(scope="module")
def identities(tmp_path_factory):
    """The texts of a key and a certificate, by name."""
    folder = tmp_path_factory.mktemp("identities")
    made = {name: make_certificate(folder, name) for name in ("server", "stranger")}
    return {name: (files.key.read_text(), files.cert.read_text()) for name, files in made.items()}


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"server_key": None}, "server_key must be the contents of a PEM file, not its path"),
        ({"server_cert": "/etc/cert.pem"}, "server_cert must be the contents of a PEM file, not its path"),
        ({"custom_ca": "/etc/ca.pem"}, "custom_ca must be the contents of a PEM file, not its path"),
        ({"client_verify": True}, "client_verify requires custom_ca"),
        ({"server_key": "stranger"}, "server_key and server_cert cannot be loaded as a pair: KEY_VALUES_MISMATCH"),
        ({"server_key": "encrypted"}, "server_key and server_cert cannot be loaded as a pair"),
        ({"server_key": "-----BEGIN PRIVATE KEY-----\nx"}, "server_key and server_cert cannot be loaded as a pair"),
        ({"custom_ca": "-----BEGIN CERTIFICATE-----\nx"}, "custom_ca has no valid certificates"),
        ({"server_crt": "x"}, "error in line 3, column 1"),
    ],
)
def test_an_invalid_ssl_config_is_an_error_that_names_file_and_fault(tmp_path, identities, fields, told):
    key, certificate = identities["server"]
    if fields.get("server_key") == "stranger":
        fields = {"server_key": identities["stranger"][0]}
    if fields.get("server_key") == "encrypted":
        command = ["openssl", "pkcs8", "-topk8", "-passout", "pass:secret"]
        done = subprocess.run(command, input=key, check=True, capture_output=True, text=True)
        fields = {"server_key": done.stdout}
    fields = {"server_key": key, "server_cert": certificate, **fields}
    path = tmp_path / "ssl.config"
    # JSON's strings and booleans are those of text protos.
    path.write_text("\n".join(f"{name}: {json.dumps(value)}" for name, value in fields.items() if value is not None))
    with pytest.raises(ConfigError, match=re.escape(told)) as caught:
        read_credentials(path)
    assert str(caught.value).startswith(f"{path}: invalid SSL config (")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fault", [" oops", '\nserver_key: "-----BEGIN PRIVATE KEY-----\nc2VjcmV0"'])
def test_an_ssl_config_error_does_not_reveal_the_key(tmp_path, fault):
    """Errors are logged, and the faulty line may hold the key."""
    path = tmp_path / "ssl.config"
    path.write_text(f'server_cert: "" server_key: "-----BEGIN PRIVATE KEY-----\\nc2VjcmV0"{fault}')
    with pytest.raises(ConfigError, match="error in line") as caught:
        read_credentials(path)
    assert "c2VjcmV0" not in str(caught.value)
