"""Rows are shared out over the cores and devices that there are."""

import os

import pytest

from export.errors import ConfigError
from export.training import devices
from export.training.devices import Cut, Devices, cores_for, multiplies_bfloat16, num_cores


@pytest.mark.parametrize(
    ("rows", "units", "cores", "used"),
    [(64, 6, 2, 2), (8, 6, 2, 1), (8, 512, 2, 2), (1, 6, 4, 1), (64, 512, 16, 8), (32, 4096, 16, 16)],
)
def test_each_core_has_enough_to_do_or_is_left_to_others(rows, units, cores, used):
    """Narrow parts would cost more than they gain."""
    assert cores_for(rows, units, cores) == used


@pytest.mark.parametrize(
    ("rows", "units", "cores", "cut"),
    [
        (64, 256, 2, Cut(rows=2)),
        (64, 512, 2, Cut(rows=2)),
        (32, 512, 2, Cut(units=2)),
        (66, 1024, 2, Cut(rows=2)),
        (64, 1024, 2, Cut(units=2)),
        (32, 255, 2, Cut(rows=2)),
        (32, 511, 4, Cut(rows=4)),
        (8, 256, 2, Cut(units=2)),
        (8, 6, 2, Cut()),
    ],
)
def test_layers_are_cut_by_units_where_a_step_takes_its_time_for_reading_weights(rows, units, cores, cut):
    """By rows elsewhere, as these need not meet; and never into fewer parts than the other way."""
    assert Devices(cores=cores).cut(rows, units) == cut


def test_what_is_freed_stays_with_the_process(monkeypatch):
    """An update would otherwise fetch its memory from the system each time."""
    options = {}

    class Library:
        def __init__(self, _):
            self.mallopt = options.__setitem__

    monkeypatch.setattr("ctypes.CDLL", Library)
    Devices.find(8, 6)
    assert options == {-1: 2**31 - 1, -3: 32 * 2**20}


def test_a_c_library_without_that_setting_is_left_alone(monkeypatch):
    """Not every one has it."""
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    assert Devices.find(8, 6).cores == 1


def test_cores_that_the_process_may_not_use_do_not_count():
    """A container may be given fewer than the machine has."""
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert num_cores() == 1
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize(
    ("flags", "has"), [("flags\t\t: fpu avx512f avx512_bf16 avx", True), ("flags : fpu avx2", False), ("", False)]
)
def test_bfloat16_is_used_where_the_processor_has_it(tmp_path, monkeypatch, flags, has):
    """Elsewhere it would be slower than float32."""
    (tmp_path / "cpuinfo").write_text(f"processor : 0\n{flags}\n")
    monkeypatch.setattr(devices, "_CPUINFO", tmp_path / "cpuinfo")
    assert multiplies_bfloat16() == has


@pytest.mark.parametrize("text", ["{", '{"cluster": 3}', "[]"])
def test_a_damaged_tf_config_is_told(monkeypatch, text):
    """The message gives what stands there."""
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ConfigError, match="TF_CONFIG: not what TensorFlow reads there"):
        Devices.find(32, 6)


def test_one_process_without_gpus_is_alone_and_the_chief():
    """It keeps the run itself."""
    found = Devices.find(32, 6)
    assert (found.is_single, found.is_chief, found.on_gpu) == (True, True, False)
    assert found.distribute(lambda own: (own.start, own.stop), 32) == (0, 32)
