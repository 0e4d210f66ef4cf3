"""Rows are shared out over the cores and devices that there are."""

import os

import pytest

from export.errors import ConfigError
from export.training import devices
from export.training.devices import Devices, cores_for, multiplies_bfloat16, num_cores


@pytest.mark.parametrize(
    ("units", "cores", "used"), [(256, 2, 2), (512, 2, 2), (255, 2, 1), (6, 4, 1), (512, 16, 4), (4096, 16, 16)]
)
def test_each_core_has_units_enough_or_is_left_to_others(units, cores, used):
    """Narrow parts would cost more than they gain."""
    assert cores_for(units, cores) == used


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
        Devices.find(32)


def test_one_process_without_gpus_is_alone_and_the_chief():
    """It keeps the run itself."""
    found = Devices.find(32)
    assert (found.is_alone, found.is_chief, found.on_gpu) == (True, True, False)
    assert found.share(lambda own: (own.start, own.stop), 32) == (0, 32)
