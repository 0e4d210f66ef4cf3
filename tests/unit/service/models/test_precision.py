"""A version is called in the precision of the settings; `auto` chooses by card and CPU, and measures nothing."""

import pytest

from contract import machine
from contract.card import GeneratorCard, PrecisionCheck
from service.models import precision
from service.models.precision import MAX_DIFFERENCE, MIN_UNITS, choose_precision
from service.scheduling.sequence import ModelVersion
from tests.registries import FakeServer, PolledRegistry, add, only
from tests.unit.contract.test_card import FIELDS

DEMO = ModelVersion("demo", 1)


def card(difference=0.0, **fields):
    """Return the card of a version with signatures in bfloat16, whose loss differs by this much."""
    check = PrecisionCheck(text="held_out", tokens=1000, float32=1.5, bfloat16=1.5 + difference)
    return GeneratorCard(**{**FIELDS, "name": "demo", "units": MIN_UNITS, "precision_check": check, **fields})


def cpuinfo(vendor, flags):
    """Return the content of /proc/cpuinfo on a machine with two cores."""
    core = f"processor\t: 0\nvendor_id\t: {vendor}\nmodel name\t: Any CPU: 2.0 GHz\nflags\t\t: fpu {flags} vme\n\n"
    return core * 2


INTEL, AMD = "GenuineIntel", "AuthenticAMD"
AMX, BF16, PLAIN = "avx512f avx512_bf16 amx_bf16 amx_tile", "avx512f avx512_bf16", "avx512f avx2"


@pytest.fixture
def on_cpu(tmp_path, monkeypatch):
    """A function that replaces the CPU."""
    path = tmp_path / "cpuinfo"
    monkeypatch.setattr(machine, "_CPUINFO", path)
    return lambda vendor, flags: path.write_text(cpuinfo(vendor, flags))


@pytest.mark.parametrize(
    ("setting", "fields", "expected"),
    [
        ({"": "float32"}, {}, "float32"),
        ({"": "bfloat16"}, {"difference": 0.5, "units": 1}, "bfloat16"),
        ({"": "bfloat16", "demo": "float32"}, {}, "float32"),
        ({"": "float32", "demo": "bfloat16", "other": "float32"}, {}, "bfloat16"),
        ({"": "auto"}, {"difference": MAX_DIFFERENCE * 0.99}, "bfloat16"),
        ({"": "auto"}, {"difference": MAX_DIFFERENCE * 1.01}, "float32"),
        ({"": "auto"}, {"units": MIN_UNITS}, "bfloat16"),
        ({"": "auto"}, {"units": MIN_UNITS - 1}, "float32"),
    ],
    ids=str,
)
def test_a_given_precision_goes_before_the_card(on_cpu, setting, fields, expected):
    on_cpu(INTEL, AMX)
    assert choose_precision(DEMO, card(**fields), setting) == expected


@pytest.mark.parametrize("wanted", ["auto", "float32", "bfloat16"])
def test_a_version_without_bfloat16_is_called_in_float32(wanted, caplog):
    exact = card(precision_check=None)
    assert choose_precision(DEMO, exact, {"": wanted}) == "float32"
    assert ("exported without signatures in bfloat16" in caplog.text) == (wanted == "bfloat16")


@pytest.mark.parametrize(
    ("vendor", "flags", "is_fast"),
    [(INTEL, AMX, True), (AMD, BF16, True), (INTEL, BF16, False), (AMD, PLAIN, False)],
)
def test_auto_chooses_bfloat16_on_cpus_that_multiply_it_faster(on_cpu, caplog, vendor, flags, is_fast):
    caplog.set_level("INFO")
    on_cpu(vendor, flags)
    assert choose_precision(DEMO, card(), {"": "auto"}) == ("bfloat16" if is_fast else "float32")
    assert f"as the CPU of this machine has {'' if is_fast else 'no '}fast instructions" in caplog.text


@pytest.mark.parametrize("content", [None, "", "\n\n", "processor : 0\nFeatures : fp asimd bf16\n", "flags\n"])
def test_auto_chooses_float32_on_an_unknown_cpu(tmp_path, monkeypatch, content):
    monkeypatch.setattr(machine, "_CPUINFO", tmp_path / "cpuinfo")
    if content is not None:
        (tmp_path / "cpuinfo").write_text(content)
    assert choose_precision(DEMO, card(), {"": "auto"}) == "float32"


def test_the_choice_needs_no_call_and_is_that_of_the_probe_and_all_calls(tmp_path, monkeypatch, on_cpu):
    on_cpu(INTEL, AMX)
    check = PrecisionCheck(text="sampled", tokens=1000, float32=1.5, bfloat16=1.5)
    add(tmp_path, "demo", 1, precision_check=check)
    server, names = FakeServer(), []
    server.models = {"demo": {1: ""}}
    predict = server.predict
    monkeypatch.setattr(server, "predict", lambda model, name, *rest: names.append(name) or predict(model, name, *rest))
    monkeypatch.setattr(precision, "MIN_UNITS", 1)
    registry = PolledRegistry(tmp_path, only(server))
    registry.refresh()
    assert registry.find("demo").batch_limits.precision == "bfloat16"
    assert set(names) == {
        f"{name}_bfloat16" for name in ("prefill", "embed", "score", "decode", "decode_full", "next_logprobs")
    }
