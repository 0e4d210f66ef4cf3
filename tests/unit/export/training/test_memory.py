"""A training run that does not fit into memory is rejected before it starts."""

import pytest

from export.config import load_config
from export.errors import TrainingFailed
from export.training import devices, model
from export.training.devices import free_bytes
from export.training.model import require_memory

CONFIG = load_config(None, {"name": "m", "corpus": "c", "units": 8192, "layers": 8})


def test_a_model_that_exceeds_memory_is_rejected_with_its_size(monkeypatch):
    monkeypatch.setattr(model, "free_bytes", lambda: 20 * 2**30)
    numbers = r"4,029,716,836 parameters \(layers = 8, units = 8192, embedding = 64, vocabulary 100\)"
    with pytest.raises(TrainingFailed, match=rf"{numbers}.*at least 124\.0 GiB of memory, but only 20\.0 GiB is free"):
        require_memory(CONFIG, 100, 3200)


def test_a_batch_that_exceeds_memory_is_rejected(monkeypatch):
    monkeypatch.setattr(model, "free_bytes", lambda: 20 * 2**30)
    with pytest.raises(TrainingFailed, match=r"1,000,000 tokens at once \(batch_size = 32, sequence_length = 100\)"):
        require_memory(load_config(None, {"name": "m", "corpus": "c"}), 50_000, 10**6)


def test_a_model_that_fits_is_accepted():
    require_memory(load_config(None, {"name": "m", "corpus": "c"}), 100, 3200)


@pytest.mark.parametrize(("limit", "expected"), [("1048576\n", 2**20), ("max\n", 2**40), (None, 2**40)])
def test_the_memory_limit_of_a_container_is_respected(tmp_path, monkeypatch, limit, expected):
    meminfo, maximum = tmp_path / "meminfo", tmp_path / "memory.max"
    meminfo.write_text(f"MemTotal: 1 kB\nMemAvailable:   {2**30} kB\n")
    if limit is not None:
        maximum.write_text(limit)
    monkeypatch.setattr(devices, "_MEMINFO", meminfo)
    monkeypatch.setattr(devices, "_LIMITS", (maximum,))
    assert free_bytes() == expected


def test_unknown_free_memory_rejects_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "_MEMINFO", tmp_path / "none")
    monkeypatch.setattr(devices, "_LIMITS", ())
    require_memory(CONFIG, 100, 3200)
