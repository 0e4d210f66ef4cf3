"""Damaged files of a repository in use: the last valid content stays in effect, and no version is served by guess."""

import os

import pytest

from service.errors import ModelLoading, ModelNotFound
from tests.registries import PolledRegistry, label, only


@pytest.fixture
def model_registry(server, two_versions):
    label(two_versions, stable=1, canary=2)
    return PolledRegistry(two_versions, only(server))


ASSETS = "demo/1/assets.extra"
FILES = "models.config", "labels.json", "routing.toml", f"{ASSETS}/generator.json", f"{ASSETS}/tokenizer.json"


def truncate(path, size):
    """Truncate a file in place, as a full disk or an interrupted copy leaves it."""
    stamp = path.stat().st_mtime_ns
    with path.open("r+b") as file:
        file.truncate(size)
    os.utime(path, ns=(stamp + 10**9, stamp + 10**9))


DAMAGES = {
    "empty": lambda path: truncate(path, 0),
    "truncated": lambda path: truncate(path, 10),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "endless": lambda path: (path.unlink(), path.symlink_to("/dev/zero")),
    # Sparse, and larger than that of any kind may be.
    "huge": lambda path: os.truncate(path, 2**40),
}
REASONS = {"a pipe": "is not a regular file", "endless": "is not a regular file", "huge": "must have at most"}
CONTENTS = [
    ("labels.json", "nested", b"[" * 10**5),
    ("labels.json", "text as a version", b'{"demo": {"stable": "1", "canary": 2}}'),
    ("routing.toml", "nested", b"a = " + b"[" * 10**5),
    ("models.config", "no text", b"\x00\xff"),
    ("models.config", "unknown field", b'model_config_list { config { nome: "x" } }'),
]


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("name", "kind", "damage"),
    [
        *((name, kind, damage) for name in FILES for kind, damage in DAMAGES.items()),
        *((name, kind, lambda path, content=content: path.write_bytes(content)) for name, kind, content in CONTENTS),
    ],
    ids=lambda value: "" if callable(value) else value,
)
def test_a_damaged_file_keeps_versions_labels_and_traffic_split(
    model_registry, server, tmp_path, name, kind, damage, caplog
):
    """It neither ends nor blocks the poll, nor fills the memory; the log names the file once, with the reason."""
    (tmp_path / "routing.toml").write_text("[demo]\nstable = 3\ncanary = 1\n")
    model_registry.refresh()
    versions, calls = [model_registry.find("demo", seed) for seed in range(40)], server.num_calls
    assert {model.ref.number for model in versions} == {1, 2}
    damage(tmp_path / name)
    if name.endswith("tokenizer.json") and kind in REASONS:
        # It is read together with the card.
        os.utime(tmp_path / name.replace("tokenizer", "generator"))
    for _ in range(3):
        model_registry.refresh()
        assert [model_registry.find("demo", seed) for seed in range(40)] == versions
        assert model_registry.find("demo@canary").ref.number == 2
    assert server.num_calls == calls
    named = [message for message in caplog.messages if name.rpartition("/")[2] in message]
    if "tokenizer" not in name or kind in REASONS:
        assert [REASONS.get(kind, "") in message for message in named] == [True]


def test_labels_stay_when_their_file_is_deleted(model_registry, tmp_path):
    """Exporters never delete it; an empty object in it removes all labels."""
    model_registry.refresh()
    (tmp_path / "labels.json").unlink()
    model_registry.refresh()
    assert model_registry.find("demo").ref.number == 1
    (tmp_path / "labels.json").write_text("{}\n")
    model_registry.refresh()
    assert model_registry.find("demo").ref.number == 2


def test_labels_of_models_config_are_read_where_labels_json_has_none(model_registry, tmp_path):
    path = tmp_path / "models.config"
    labeled = 'version_labels { key: "stable" value: 2 } version_labels { key: "mine" value: 1 }'
    path.write_text(path.read_text().replace('name: "demo"', f'name: "demo" {labeled}'))
    model_registry.refresh()
    numbers = [model_registry.find(name).ref.number for name in ("demo", "demo@mine")]
    assert numbers == [1, 1]


def test_a_repository_that_is_unavailable_changes_nothing(model_registry, tmp_path):
    (tmp_path / "routing.toml").write_text("[demo]\ncanary = 1\n")
    model_registry.refresh()
    for name in ("models.config", "labels.json", "routing.toml"):
        (tmp_path / name).rename(tmp_path / f"{name}.away")
    model_registry.refresh()
    assert (model_registry.find("demo").ref.number, model_registry.find("demo@stable").ref.number) == (2, 1)
    for name in ("models.config", "labels.json"):
        (tmp_path / f"{name}.away").rename(tmp_path / name)
    model_registry.refresh()
    assert model_registry.find("demo").ref.number == 1


def test_a_config_without_models_unloads_them(model_registry, tmp_path):
    """An exporter that removes the last model writes it, so it is not a damaged file."""
    model_registry.refresh()
    (tmp_path / "models.config").write_text("model_config_list {\n}\n")
    model_registry.refresh()
    with pytest.raises(ModelNotFound):
        model_registry.find("demo")
    assert model_registry.models() == []


@pytest.mark.parametrize("damage", ['{"demo": {"sta', ""])
def test_unreadable_labels_at_startup_allow_only_explicit_versions(model_registry, tmp_path, damage):
    (tmp_path / "labels.json").write_text(damage)
    model_registry.refresh()
    for name in ("demo", "demo@stable", "demo@canary", None):
        with pytest.raises(ModelLoading, match=r"labels\.json cannot be read"):
            model_registry.find(name)
    with pytest.raises(ModelLoading):
        model_registry.ready_models()
    with pytest.raises(ModelLoading):
        model_registry.models()
    assert [model_registry.find(f"demo:{version}").ref.number for version in (1, 2)] == [1, 2]
    label(tmp_path, stable=1, canary=2)
    model_registry.refresh()
    assert model_registry.find("demo").ref.number == 1


def test_no_canary_replaces_a_stable_version_whose_card_is_damaged(model_registry, tmp_path):
    """A backend has the version, so it is loading until its files are whole again."""
    card = tmp_path / "demo" / "1" / "assets.extra" / "generator.json"
    whole = card.read_bytes()
    truncate(card, 10)
    model_registry.refresh()
    for name in ("demo", "demo@stable", "demo:1"):
        with pytest.raises(ModelLoading):
            model_registry.find(name)
    assert model_registry.find("demo@canary").ref.number == 2
    card.write_bytes(whole)
    model_registry.refresh()
    assert model_registry.find("demo").ref.number == 1


def test_unreadable_routing_at_startup_sends_every_request_to_stable(model_registry, tmp_path):
    (tmp_path / "routing.toml").write_text("[demo")
    model_registry.refresh()
    assert {model_registry.find("demo", seed).ref.number for seed in range(20)} == {1}
