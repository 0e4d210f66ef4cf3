"""Parsing and validation of models.config."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from google.protobuf import text_format
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from contract.models_config import VersionPolicy
from model_server.config import ModelConfig, from_proto, read_config, single_model
from model_server.errors import ConfigError


def parsed(entry: str, models_root: Path | None = None) -> ModelConfig:
    """Parse a config of one model and return that model."""
    text = f'model_config_list {{ config {{ name: "a" {entry} }} }}'
    return from_proto(text_format.Parse(text, ModelServerConfig()), models_root)["a"]


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("", VersionPolicy(latest=1)),
        ("model_version_policy { latest { num_versions: 2 } }", VersionPolicy(latest=2)),
        ("model_version_policy { latest { num_versions: 0 } }", VersionPolicy(latest=1)),
        ("model_version_policy { all {} }", VersionPolicy()),
        ("model_version_policy { specific { versions: 3 versions: 5 } }", VersionPolicy(specific=frozenset({3, 5}))),
    ],
)
def test_the_version_policy_is_parsed_and_defaults_to_the_latest(text: str, policy: object):
    """Fewer than one version are one."""
    assert parsed(f'base_path: "/m" model_platform: "tensorflow" {text}').policy == policy


def test_version_labels_are_parsed():
    """Each label maps to its version."""
    labels = 'version_labels { key: "stable" value: 3 } version_labels { key: "canary" value: 5 }'
    assert parsed(f'base_path: "/m" model_platform: "tensorflow" {labels}').labels == {"stable": 3, "canary": 5}


@pytest.mark.parametrize(
    ("base_path", "root", "expected"),
    [
        ("/models/a", "/data", "/data/a"),
        ("/models", "/data", "/data"),
        ("/models/a", None, "/models/a"),
        ("/elsewhere/a", "/data", "/elsewhere/a"),
        ("/models-old/a", "/data", "/models-old/a"),
    ],
)
def test_models_root_replaces_only_paths_below_slash_models(base_path: str, root: str | None, expected: str):
    """Other absolute paths are kept; without a root, all are."""
    model = parsed(f'base_path: "{base_path}" model_platform: "tensorflow"', Path(root) if root else None)
    assert model.base_path == Path(expected)


def test_models_root_defaults_to_the_directory_of_the_config_file(tmp_path: Path):
    """So a config file for TensorFlow Serving's container works unchanged beside its models."""
    file = tmp_path / "models.config"
    file.write_text('model_config_list { config { name: "a" base_path: "/models/a" model_platform: "tensorflow" } }')
    assert read_config(file)["a"].base_path == tmp_path / "a"
    assert read_config(file, Path("/data"))["a"].base_path == Path("/data/a")


@pytest.mark.parametrize(("text", "config"), [("model_config_list {}", {}), ("# nothing yet", None), ("\n", None)])
def test_an_empty_model_list_differs_from_no_list(tmp_path: Path, text: str, config: Mapping[str, ModelConfig] | None):
    """TensorFlow Serving unloads every model for an empty list, and keeps them without a list."""
    (tmp_path / "models.config").write_text(text)
    assert read_config(tmp_path / "models.config") == config


def test_an_empty_config_file_is_an_error(tmp_path: Path):
    """TensorFlow Serving does not start with one, and keeps its models if the file becomes empty later."""
    (tmp_path / "models.config").touch()
    with pytest.raises(ConfigError, match=r"models\.config: cannot be read \(Invalid argument: the file is empty\)"):
        read_config(tmp_path / "models.config")


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ('name: "a" base_path: "/m" model_platform: "caffe"', "requests unsupported platform caffe"),
        ('name: "a" base_path: "/m"', "model_platform"),
        ('name: "a" base_path: "m" model_platform: "tensorflow"', "absolute path"),
        ('name: "a" model_platform: "tensorflow"', "absolute path"),
        ('base_path: "/m" model_platform: "tensorflow"', "no name"),
    ],
)
def test_an_invalid_model_entry_is_refused(entry: str, told: str):
    """Name, path and platform are validated before any model is loaded."""
    message = text_format.Parse(f"model_config_list {{ config {{ {entry} }} }}", ModelServerConfig())
    with pytest.raises(ConfigError, match=told):
        from_proto(message, None)


def test_a_model_listed_twice_is_refused():
    """Otherwise the second entry would silently replace the first."""
    entry = 'config { name: "a" base_path: "/m" model_platform: "tensorflow" }'
    message = text_format.Parse(f"model_config_list {{ {entry} {entry} }}", ModelServerConfig())
    with pytest.raises(ConfigError, match="Illegal to list model a multiple times"):
        from_proto(message, None)


def test_the_deprecated_model_type_still_means_tensorflow():
    """Old config files keep working."""
    assert parsed('base_path: "/m" model_type: TENSORFLOW').name == "a"


def test_a_custom_model_config_is_refused():
    """The model server has nothing that could interpret one."""
    with pytest.raises(ConfigError, match="custom_model_config"):
        from_proto(text_format.Parse("custom_model_config {}", ModelServerConfig()), None)


@pytest.mark.parametrize(
    "content", [b"model_config_list {", b"models: 1", b"\xff\xfe", b"model_config_list { config {} }"]
)
def test_an_invalid_config_file_is_an_error_of_one_line(tmp_path: Path, content: bytes):
    """It names the file and fits a line of the log."""
    file = tmp_path / "models.config"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_config(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_config_file_is_an_error(tmp_path: Path):
    """It names the file and the reason."""
    with pytest.raises(ConfigError, match=r"absent\.config: cannot be read \(No such file"):
        read_config(tmp_path / "absent.config")


def test_a_single_model_serves_its_latest_version_from_an_absolute_path():
    """A relative path is resolved at once, so a later change of the working directory has no effect."""
    assert single_model("a", Path("m"))["a"] == ModelConfig("a", Path.cwd() / "m", VersionPolicy(latest=1), {})
