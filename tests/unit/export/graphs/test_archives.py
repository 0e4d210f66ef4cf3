"""Files of Keras that unpack to much more than they are get refused before they are unpacked."""

import json
import tracemalloc
import zipfile

import h5py
import keras
import numpy as np
import pytest

from export.errors import UnsupportedModel
from export.graphs import archives
from export.graphs.imported_model import load_keras

MIB = 1 << 20


@pytest.fixture(scope="module")
def model():
    """An honest model."""
    layers = keras.layers
    return keras.Sequential([layers.Input([5]), layers.Embedding(9, 4), layers.LSTM(3), layers.Dense(9)])


@pytest.fixture
def path(model, tmp_path):
    """Its file."""
    model.save(tmp_path / "m.keras")
    return tmp_path / "m.keras"


def repack(path, **replaced):
    """Write a `.keras` file anew, compressed, with other members."""
    with zipfile.ZipFile(path) as old:
        members = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name, content in {**members, **replaced}.items():
            new.writestr(name, content)


def refused(path, message):
    """Load it, and return the most memory that Python had in use meanwhile."""
    tracemalloc.start()
    try:
        with pytest.raises(UnsupportedModel, match=message):
            load_keras(path)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("name", "limit"),
    [("metadata.json", archives.MAX_METADATA_BYTES), ("config.json", archives.MAX_CONFIG_BYTES)],
)
def test_a_description_that_unpacks_to_more_than_its_limit_is_refused(path, name, limit):
    """The message names the member, the limit and the size; memory stays far below that size."""
    content = json.dumps({"keras_version": "3.0.0", "pad": " " * 48 * MIB}).encode()
    repack(path, **{name: content})
    used = refused(path, rf"m.keras: {name} must unpack to at most {limit:,} bytes, got {len(content):,}")
    assert used < 24 * MIB


def test_members_are_bounded_together(path, monkeypatch):
    """Also those that nobody reads by name, such as assets: Keras unpacks them all."""
    monkeypatch.setattr(archives, "FREE_BYTES", MIB)
    repack(path, **{f"assets/{i}": bytes(MIB // 2) for i in range(8)})
    refused(path, r"m.keras: its members must unpack to at most 1,048,576 bytes, got 4,2\d\d,\d{3}")


def test_a_member_that_understates_its_size_is_read_no_further(path):
    """The directory of the archive is the author's to write."""
    repack(path, **{"metadata.json": bytes(8 * MIB)})
    with zipfile.ZipFile(path) as archive:
        declared = archive.getinfo("metadata.json").file_size.to_bytes(4, "little")
    path.write_bytes(path.read_bytes().replace(declared, (100).to_bytes(4, "little")))
    assert refused(path, "not a .keras file, or a damaged one") < 4 * MIB


def bomb(path):
    """Write arrays that are said to be large and take no room."""
    with h5py.File(path, "w") as file:
        shape = (archives.FREE_BYTES // 4 + 1,)
        file.create_dataset("layer/vars/0", shape, np.float32, chunks=(1024,), compression="gzip")


def test_weights_that_are_larger_than_their_file_are_refused(path, tmp_path):
    """In a `.keras` file as in an `.h5` file."""
    bomb(tmp_path / "weights")
    repack(path, **{"model.weights.h5": (tmp_path / "weights").read_bytes()})
    with h5py.File(tmp_path / "weights", "r+") as file:
        file.attrs["model_config"] = "{}"
    (tmp_path / "weights").rename(tmp_path / "m.h5")
    for file in (path, tmp_path / "m.h5"):
        assert refused(file, "its arrays must unpack to at most 67,108,864 bytes, got 67,108,868") < 24 * MIB


def test_arrays_of_other_files_are_not_read(tmp_path):
    """Neither by a link nor as the storage of an array."""
    (tmp_path / "secret").write_bytes(bytes(16))
    for name, item in (("link", h5py.ExternalLink("secret", "/")), ("soft", h5py.SoftLink("/x"))):
        with h5py.File(tmp_path / name, "w") as file:
            file["layer"] = item
        refused(tmp_path / name, f"{name}: 'layer' is a link in HDF5")
    with h5py.File(tmp_path / "outside", "w") as file:
        file.create_dataset("layer", (4,), np.float32, external=[(str(tmp_path / "secret"), 0, 16)])
    refused(tmp_path / "outside", "outside: the values of 'layer' lie in another file")


def test_a_group_that_holds_itself_has_an_end(tmp_path):
    """A hard link may lead upwards."""
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file["a/b"] = np.zeros(3)
        file["a/a"] = file["a"]
    refused(tmp_path / "m.h5", "weights alone, without their model")


def test_the_description_in_an_h5_file_is_bounded(tmp_path, monkeypatch):
    """Like that of a `.keras` file."""
    monkeypatch.setattr(archives, "MAX_CONFIG_BYTES", 1000)
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.attrs["model_config"] = " " * 1001
    refused(tmp_path / "m.h5", "m.h5: model_config must unpack to at most 1,000 bytes, got 1,001")


def test_an_honest_file_is_read_whether_compressed_or_not(model, path):
    """Weights hardly compress."""
    for again in (False, True):
        if again:
            repack(path)
        np.testing.assert_array_equal(load_keras(path).get_weights()[0], model.get_weights()[0])
