"""models.config."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from google.protobuf import text_format
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from model_server.config import ModelConfig, from_proto, read_config, single_model
from model_server.errors import ConfigError
from model_server.versions import All, Latest, Specific


def parsed(entry: str, models_root: Path | None = None) -> ModelConfig:
    """Return the one model of a config."""
    text = f'model_config_list {{ config {{ name: "a" {entry} }} }}'
    return from_proto(text_format.Parse(text, ModelServerConfig()), models_root)["a"]


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("", Latest(1)),
        ("model_version_policy { latest { num_versions: 2 } }", Latest(2)),
        ("model_version_policy { latest { num_versions: 0 } }", Latest(1)),
        ("model_version_policy { all {} }", All()),
        ("model_version_policy { specific { versions: 3 versions: 5 } }", Specific(frozenset({3, 5}))),
    ],
)
def test_a_policy_is_read_and_the_latest_version_is_the_default(text: str, policy: object):
    """Each policy of the proto has its own type here."""
    assert parsed(f'base_path: "/m" model_platform: "tensorflow" {text}').policy == policy


def test_labels_are_read():
    """Every label keeps its version."""
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
def test_only_paths_below_models_are_mapped_to_the_root(base_path: str, root: str | None, expected: str):
    """`/models` stands for the root, where there is one; other absolute paths stay."""
    model = parsed(f'base_path: "{base_path}" model_platform: "tensorflow"', Path(root) if root else None)
    assert model.base_path == Path(expected)


def test_the_folder_of_the_file_is_the_root_by_default(tmp_path: Path):
    """A config file that TensorFlow Serving's container can use works beside its models as it is."""
    file = tmp_path / "models.config"
    file.write_text('model_config_list { config { name: "a" base_path: "/models/a" model_platform: "tensorflow" } }')
    assert read_config(file)["a"].base_path == tmp_path / "a"
    assert read_config(file, Path("/data"))["a"].base_path == Path("/data/a")


@pytest.mark.parametrize(("text", "config"), [("model_config_list {}", {}), ("# nothing yet", None), ("\n", None)])
def test_an_empty_list_of_models_is_not_the_same_as_none(
    tmp_path: Path, text: str, config: Mapping[str, ModelConfig] | None
):
    """TensorFlow Serving unloads every model for the one, and keeps them for the other."""
    (tmp_path / "models.config").write_text(text)
    assert read_config(tmp_path / "models.config") == config


def test_a_file_without_a_byte_cannot_be_read(tmp_path: Path):
    """As in TensorFlow Serving, which does not start with it and keeps its models when it comes later."""
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
def test_a_model_that_cannot_be_served_is_refused(entry: str, told: str):
    """Name, path and platform are checked before anything is loaded."""
    message = text_format.Parse(f"model_config_list {{ config {{ {entry} }} }}", ModelServerConfig())
    with pytest.raises(ConfigError, match=told):
        from_proto(message, None)


def test_a_model_listed_twice_is_refused():
    """The second entry would silently win otherwise."""
    entry = 'config { name: "a" base_path: "/m" model_platform: "tensorflow" }'
    message = text_format.Parse(f"model_config_list {{ {entry} {entry} }}", ModelServerConfig())
    with pytest.raises(ConfigError, match="Illegal to list model a multiple times"):
        from_proto(message, None)


def test_the_deprecated_model_type_still_means_tensorflow():
    """Old files go on working."""
    assert parsed('base_path: "/m" model_type: TENSORFLOW').name == "a"


def test_a_custom_config_is_refused():
    """There is nothing here that could interpret one."""
    with pytest.raises(ConfigError, match="custom_model_config"):
        from_proto(text_format.Parse("custom_model_config {}", ModelServerConfig()), None)


@pytest.mark.parametrize(
    "content", [b"model_config_list {", b"models: 1", b"\xff\xfe", b"model_config_list { config {} }"]
)
def test_a_file_that_cannot_be_used_is_named_in_one_line(tmp_path: Path, content: bytes):
    """The message says which file, and fits a log."""
    file = tmp_path / "models.config"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_config(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path):
    """The message says which file, and why."""
    with pytest.raises(ConfigError, match=r"absent\.config: cannot be read \(No such file"):
        read_config(tmp_path / "absent.config")


def test_a_single_model_serves_its_latest_version_from_an_absolute_path():
    """A relative path is one from the working directory, whatever becomes of that later."""
    assert single_model("a", Path("m"))["a"] == ModelConfig("a", Path.cwd() / "m", Latest(1), {})
