"""A version is called in the precision that the settings ask for, or in the faster one if it costs no quality."""

import pytest

from contract.card import GeneratorCard, PrecisionCheck
from service.backends import precision
from service.backends.precision import MAX_DIFFERENCE, MIN_SPEEDUP, PrecisionPolicy
from service.params import ModelVersion
from tests.registries import PolledRegistry
from tests.unit.contract.test_card import FIELDS
from tests.unit.service.backends.test_registry import FakeServer, add, only

DEMO = ModelVersion("demo", 1)


def card(difference=0.0, **fields):
    """Return the card of a version with signatures in bfloat16, whose loss differs by this much."""
    check = PrecisionCheck(text="held_out", tokens=1000, float32=1.5, bfloat16=1.5 + difference)
    return GeneratorCard(**{**FIELDS, "name": "demo", "precision_check": check, **fields})


class Clock:
    """A server on which a decode call takes a set time in each precision."""

    def __init__(self, monkeypatch, float32, bfloat16):
        self.now, self.calls = 0.0, []
        self.seconds = {"float32": float32, "bfloat16": bfloat16}
        monkeypatch.setattr(precision.time, "perf_counter", lambda: self.now)

    def predict(self, name):
        def call(signature, inputs, shapes):
            assert shapes["state"] == inputs["state"].shape
            self.calls.append((name, signature, len(inputs["state"])))
            # The first call of each is slow, as TensorFlow optimizes the graph then.
            first = sum(called == name for called, *_ in self.calls) == 1
            self.now += self.seconds[name] + 100 * first

        return call


def never(_precision):
    raise AssertionError("nothing has to be measured")


@pytest.mark.parametrize(
    ("wanted", "difference", "expected"),
    [
        ({"": "float32"}, 0.0, "float32"),
        ({"": "bfloat16"}, 0.5, "bfloat16"),
        ({"": "bfloat16", "demo": "float32"}, 0.0, "float32"),
        ({"": "float32", "demo": "bfloat16", "other": "float32"}, 0.0, "bfloat16"),
        ({"": "auto"}, MAX_DIFFERENCE * 1.01, "float32"),
    ],
    ids=str,
)
def test_a_given_precision_and_a_coarse_one_are_not_measured(wanted, difference, expected):
    """A model's own entry goes before the one for all; `auto` rejects bfloat16 if it costs too much by the card."""
    assert PrecisionPolicy(wanted).choose(DEMO, card(difference), never) == expected


@pytest.mark.parametrize("wanted", ["auto", "float32", "bfloat16"])
def test_a_version_without_bfloat16_is_called_in_float32(wanted, caplog):
    """If bfloat16 was asked for, a warning says why."""
    exact = card(precision_check=None)
    assert PrecisionPolicy({"": wanted}).choose(DEMO, exact, never) == "float32"
    assert ("exported without signatures in bfloat16" in caplog.text) == (wanted == "bfloat16")


@pytest.mark.parametrize(("speedup", "expected"), [(MIN_SPEEDUP, "bfloat16"), (MIN_SPEEDUP - 0.01, "float32")])
def test_auto_measures_which_precision_decodes_faster(monkeypatch, speedup, expected):
    """Both are called in turn at the batch size of a busy server; their first calls do not count."""
    clock = Clock(monkeypatch, float32=speedup, bfloat16=1.0)
    assert PrecisionPolicy().choose(DEMO, card(-0.01), clock.predict) == expected
    assert {call[1:] for call in clock.calls} == {("decode", 32)}
    assert [name for name, *_ in clock.calls[:4]] == ["float32", "bfloat16"] * 2


def test_a_version_is_measured_once(monkeypatch):
    """All its backends are called in the same precision; a version that was replaced is measured again."""
    policy = PrecisionPolicy()
    assert policy.choose(DEMO, card(), Clock(monkeypatch, 2.0, 1.0).predict) == "bfloat16"
    assert policy.choose(DEMO, card(), never) == "bfloat16"
    replaced = card(weights_sha256="2" * 64)
    assert policy.choose(DEMO, replaced, Clock(monkeypatch, 1.0, 2.0).predict) == "float32"


def test_the_probe_and_all_calls_use_the_precision(tmp_path, monkeypatch):
    """The registry passes it on to the calls of the version, together with its batch sizes."""
    (tmp_path / "models.config").write_text("model_config_list {}")
    check = PrecisionCheck(text="sampled", tokens=1000, float32=1.5, bfloat16=1.5)
    add(tmp_path, "demo", 1, precision_check=check)
    server, names = FakeServer(), []
    server.models = {"demo": {1: ""}}
    predict = server.predict
    monkeypatch.setattr(server, "predict", lambda model, name, *rest: names.append(name) or predict(model, name, *rest))
    monkeypatch.setattr(precision, "_speedup", lambda card, predict: 2.0)
    registry = PolledRegistry(tmp_path, only(server))
    registry.refresh()
    assert registry.find("demo").batch_limits.precision == "bfloat16"
    assert set(names) == {f"{name}_bfloat16" for name in ("prefill", "embed", "score", "decode", "decode_full")}
