"""Decompression limits for Keras files, checked before Keras loads them.

Weights hardly compress, and Keras stores them uncompressed. A file that unpacks to many times its size is therefore a
decompression bomb, not the result of training.
"""

import json
import shutil
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import h5py

from export.errors import UnsupportedModel

# The model config takes a few kilobytes per layer. Parsed JSON takes up to thirty times as much memory.
MAX_CONFIG_BYTES = 8 << 20
MAX_METADATA_BYTES = 64 << 10
# Exceptions for a file that is damaged or not a ZIP file.
DAMAGED = (zipfile.BadZipFile, zlib.error, OSError, RuntimeError, LookupError, ValueError, TypeError)
# Limit of the unpacked size of a file: the larger of a number of bytes and a multiple of the file's size.
FREE_BYTES, MAX_EXPANSION = 64 << 20, 16
MAX_VOCABULARY_BYTES = 64 << 20
_CONFIG, _METADATA, _WEIGHTS = "config.json", "metadata.json", "model.weights.h5"


def read_metadata(path: Path) -> dict[str, Any]:
    """Return the metadata of a `.keras` file, after checking the limits of all but the config: see `read_vocabularies`.

    Raises:
        UnsupportedModel: the unpacked size exceeds a limit.
        zipfile.BadZipFile, KeyError, ValueError, OSError: the file is damaged or not a `.keras` file.
    """
    with zipfile.ZipFile(path) as archive:
        sizes = [info.file_size for info in archive.infolist()]
        _require_size(path, "its members", sum(sizes), limit := _limit(path))
        metadata = json.loads(_read(archive, _METADATA, path, MAX_METADATA_BYTES))
        if _WEIGHTS in archive.namelist():
            # Unpack to disk: HDF5 seeks, and each backward seek would decompress the member again.
            with tempfile.TemporaryFile() as copy, archive.open(_WEIGHTS) as weights:
                shutil.copyfileobj(weights, copy)
                _require_datasets(copy, path, limit)
    return metadata


def read_vocabularies(path: Path) -> tuple[Any, dict[str, bytes]]:
    """Return the model config of a `.keras` file and the content of its vocabulary files, by their names.

    Raises:
        UnsupportedModel: the unpacked size exceeds a limit, or the file is damaged or not a `.keras` file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _require_size(path, "its members", sum(info.file_size for info in archive.infolist()), _limit(path))
            names = [name for name in archive.namelist() if name.endswith("/vocabulary.txt")]
            config = json.loads(_read(archive, _CONFIG, path, MAX_CONFIG_BYTES))
            return config, {name: _read(archive, name, path, MAX_VOCABULARY_BYTES) for name in names}
    except DAMAGED as error:
        raise UnsupportedModel(f"{path}: not a .keras file, or a damaged one ({error})") from error


def write_config(path: Path, config: Any, target: Path) -> None:
    """Copy a `.keras` file, with another model config."""
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(target, "w") as copy:
        for info in archive.infolist():
            if info.filename != _CONFIG:
                with archive.open(info) as member, copy.open(info.filename, "w", force_zip64=True) as copied:
                    shutil.copyfileobj(member, copied)
        copy.writestr(_CONFIG, json.dumps(config))


def read_config(path: Path) -> tuple[str | None, str]:
    """Return the model config of an `.h5` file (None if it has none) and the Keras version.

    Raises:
        UnsupportedModel: the unpacked size exceeds a limit, or the file refers to other files.
    """
    _require_datasets(path, path, _limit(path))
    with h5py.File(path) as file:
        if "model_config" in file.attrs:
            size = file.attrs.get_id("model_config").get_storage_size()
            _require_size(path, "model_config", size, MAX_CONFIG_BYTES)
        config, version = file.attrs.get("model_config"), str(file.attrs.get("keras_version", "2"))
    if config is not None:
        # For a variable-length string the storage size is that of a reference.
        _require_size(path, "model_config", len(config), MAX_CONFIG_BYTES)
    return config, version


def _limit(path: Path) -> int:
    return max(FREE_BYTES, MAX_EXPANSION * path.stat().st_size)


def _read(archive: zipfile.ZipFile, name: str, path: Path, limit: int) -> bytes:
    """Read a member, at most `limit` bytes, whatever size its header declares."""
    _require_size(path, name, archive.getinfo(name).file_size, limit)
    with archive.open(name) as member:
        content = member.read(limit + 1)
    _require_size(path, name, len(content), limit)
    return content


def _require_datasets(file: BinaryIO | Path, path: Path, limit: int) -> None:
    """Reject datasets whose total size exceeds the limit, links, and datasets stored in other files."""
    total = 0
    with h5py.File(file, "r") as opened:
        groups, seen = [opened["/"]], set[int]()
        while groups:
            group = groups.pop()
            address = h5py.h5o.get_info(group.id).addr
            # A group may contain itself.
            names = () if address in seen else tuple(group)
            seen.add(address)
            for name in names:
                link = group.get(name, getlink=True)
                if not isinstance(link, h5py.HardLink):
                    raise UnsupportedModel(f"{path}: {name!r} is a link in HDF5, which is not followed")
                item = group[name]
                if isinstance(item, h5py.Group):
                    groups.append(item)
                elif isinstance(item, h5py.Dataset):
                    if item.external or item.is_virtual:
                        raise UnsupportedModel(f"{path}: the values of {name!r} are in another file, which is not read")
                    total += item.nbytes
                    _require_size(path, "its arrays", total, limit)


def _require_size(path: Path, what: str, size: int, limit: int) -> None:
    if size > limit:
        raise UnsupportedModel(f"{path}: {what} must unpack to at most {limit:,} bytes, got {size:,}")
