"""Keras files that unpack to more than their limit are refused before they are unpacked."""

import json
import tracemalloc
import zipfile

import h5py
import keras
import numpy as np
import pytest

from export.errors import UnsupportedModel
from export.imported import archives
from export.imported.model import load_keras

MIB = 1 << 20


@pytest.fixture(scope="module")
def model():
    layers = keras.layers
    return keras.Sequential([layers.Input([5]), layers.Embedding(9, 4), layers.LSTM(3), layers.Dense(9)])


@pytest.fixture
def path(model, tmp_path):
    model.save(tmp_path / "m.keras")
    return tmp_path / "m.keras"


def repack(path, **replaced):
    """Write a `.keras` file again, compressed, with other members."""
    with zipfile.ZipFile(path) as old:
        members = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name, content in {**members, **replaced}.items():
            new.writestr(name, content)


def refused(path, message):
    """Load a file, which must be refused, and return the peak memory of Python meanwhile."""
    tracemalloc.start()
    try:
        with pytest.raises(UnsupportedModel, match=message):
            load_keras(path)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("name", "limit"), [("metadata.json", archives.MAX_METADATA_BYTES), ("config.json", archives.MAX_CONFIG_BYTES)]
)
def test_metadata_or_config_that_unpacks_above_its_limit_is_refused(path, name, limit):
    """The message has member, limit and size; memory stays far below that size."""
    content = json.dumps({"keras_version": "3.0.0", "pad": " " * 48 * MIB}).encode()
    repack(path, **{name: content})
    used = refused(path, rf"m.keras: {name} must unpack to at most {limit:,} bytes, got {len(content):,}")
    assert used < 24 * MIB


def test_all_members_together_have_a_limit(path, monkeypatch):
    monkeypatch.setattr(archives, "FREE_BYTES", MIB)
    repack(path, **{f"assets/{i}": bytes(MIB // 2) for i in range(8)})
    refused(path, r"m.keras: its members must unpack to at most 1,048,576 bytes, got 4,2\d\d,\d{3}")


def test_a_member_is_read_no_further_than_its_declared_size(path):
    """The archive's author writes the declared sizes, so they may be wrong."""
    repack(path, **{"metadata.json": bytes(8 * MIB)})
    with zipfile.ZipFile(path) as archive:
        declared = archive.getinfo("metadata.json").file_size.to_bytes(4, "little")
    path.write_bytes(path.read_bytes().replace(declared, (100).to_bytes(4, "little")))
    assert refused(path, "not a .keras file, or a damaged one") < 4 * MIB


def bomb(path):
    """Write an HDF5 file whose array declares a large shape and stores nothing."""
    with h5py.File(path, "w") as file:
        shape = (archives.FREE_BYTES // 4 + 1,)
        file.create_dataset("layer/vars/0", shape, np.float32, chunks=(1024,), compression="gzip")


def test_weights_that_unpack_to_more_than_their_file_are_refused(path, tmp_path):
    """The same limit applies to a `.keras` and an `.h5` file; memory stays far below it."""
    bomb(tmp_path / "weights")
    repack(path, **{"model.weights.h5": (tmp_path / "weights").read_bytes()})
    with h5py.File(tmp_path / "weights", "r+") as file:
        file.attrs["model_config"] = "{}"
    (tmp_path / "weights").rename(tmp_path / "m.h5")
    for file in (path, tmp_path / "m.h5"):
        assert refused(file, "its arrays must unpack to at most 67,108,864 bytes, got 67,108,868") < 24 * MIB


def test_links_and_external_storage_in_hdf5_are_refused(tmp_path):
    (tmp_path / "secret").write_bytes(bytes(16))
    for name, item in (("link", h5py.ExternalLink("secret", "/")), ("soft", h5py.SoftLink("/x"))):
        with h5py.File(tmp_path / name, "w") as file:
            file["layer"] = item
        refused(tmp_path / name, f"{name}: 'layer' is a link in HDF5")
    with h5py.File(tmp_path / "outside", "w") as file:
        file.create_dataset("layer", (4,), np.float32, external=[(str(tmp_path / "secret"), 0, 16)])
    refused(tmp_path / "outside", "outside: the values of 'layer' are in another file")


def test_a_cyclic_hdf5_group_does_not_loop_forever(tmp_path):
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file["a/b"] = np.zeros(3)
        file["a/a"] = file["a"]
    refused(tmp_path / "m.h5", "only weights, without the model")


def test_model_config_of_an_h5_file_has_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_CONFIG_BYTES", 1000)
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.attrs["model_config"] = " " * 1001
    refused(tmp_path / "m.h5", "m.h5: model_config must unpack to at most 1,000 bytes, got 1,001")


def test_a_valid_file_is_read_compressed_or_not(model, path):
    """Weights compress so little that the limits do not refuse them."""
    for again in (False, True):
        if again:
            repack(path)
        np.testing.assert_array_equal(load_keras(path).get_weights()[0], model.get_weights()[0])
