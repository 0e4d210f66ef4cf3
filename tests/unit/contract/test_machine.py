"""What the machine can do: its cores, bfloat16 instructions and a GPU."""

import os

import pytest

from contract import machine
from contract.machine import has_amx, has_gpu, multiplies_bfloat16, num_cores


def test_cores_that_the_process_may_not_use_do_not_count():
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert num_cores() == 1
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize(
    ("flags", "has_bfloat16", "amx"),
    [
        ("flags\t\t: fpu avx512f avx512_bf16 avx", True, False),
        ("flags : avx512_bf16 amx_bf16", True, True),
        ("Features : fp bf16", True, False),
        ("flags : fpu avx2", False, False),
        ("", False, False),
    ],
)
def test_bfloat16_is_used_where_the_cpu_supports_it(tmp_path, monkeypatch, flags, has_bfloat16, amx):
    (tmp_path / "cpuinfo").write_text(f"processor : 0\n{flags}\n")
    monkeypatch.setattr(machine, "_CPUINFO", tmp_path / "cpuinfo")
    assert (multiplies_bfloat16(), has_amx()) == (has_bfloat16, amx)


def test_a_cpu_of_an_unknown_kind_has_no_bfloat16_instructions(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "_CPUINFO", tmp_path / "none")
    assert not multiplies_bfloat16()


def test_a_gpu_has_a_device_file(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "_FIRST_GPU", tmp_path / "nvidia0")
    assert not has_gpu()
    (tmp_path / "nvidia0").touch()
    assert has_gpu()
