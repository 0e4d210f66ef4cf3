"""A batch is partitioned over the available cores and devices."""

import pytest

from export.errors import ConfigError
from export.training.devices import Compute, Devices, cores_for


@pytest.mark.parametrize(
    ("rows", "units", "cores", "used"),
    [(64, 6, 2, 2), (8, 6, 2, 1), (8, 512, 2, 2), (1, 6, 4, 1), (64, 512, 16, 8), (32, 4096, 16, 16)],
)
def test_cores_without_enough_work_are_not_used(rows, units, cores, used):
    """Partitions that are too narrow cost more than they gain."""
    assert cores_for(rows, units, cores) == used


@pytest.mark.parametrize(
    ("rows", "units", "cores", "compute"),
    [
        (64, 256, 2, Compute(row_parts=2)),
        (64, 512, 2, Compute(row_parts=2)),
        (32, 512, 2, Compute(unit_parts=2)),
        (66, 1024, 2, Compute(row_parts=2)),
        (64, 1024, 2, Compute(unit_parts=2)),
        (32, 255, 2, Compute(row_parts=2)),
        (32, 511, 4, Compute(row_parts=4)),
        (8, 256, 2, Compute(unit_parts=2)),
        (8, 6, 2, Compute()),
    ],
)
def test_layers_are_cut_by_units_where_reading_weights_dominates(rows, units, cores, compute):
    assert Devices(cores=cores).compute(rows, units) == compute


def test_freed_memory_stays_with_the_process(monkeypatch):
    options = {}

    class Library:
        def __init__(self, _):
            self.mallopt = options.__setitem__

    monkeypatch.setattr("ctypes.CDLL", Library)
    Devices.find(8, 6)
    assert options == {-1: 2**31 - 1, -3: 32 * 2**20}


@pytest.mark.parametrize("text", ["{", '{"cluster": 3}', "[]"])
def test_an_invalid_tf_config_is_rejected(monkeypatch, text):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ConfigError, match="TF_CONFIG is invalid"):
        Devices.find(32, 6)


def test_one_process_without_gpus_is_a_single_replica_and_the_chief():
    found = Devices.find(32, 6)
    assert (found.num_replicas, found.is_chief, found.on_gpu) == (1, True, False)
    assert found.distribute(lambda own: (own.start, own.stop), 32) == (0, 32)
