"""The comparison with other servers computes and reports what it says."""

import contextlib
import json

from benchmarks.competitors.__main__ import choose, cpu_rows, speed_rows
from benchmarks.competitors.libraries import NEW_TOKENS, measure_completions
from benchmarks.competitors.systems import FLOAT32, Measurement, link_libraries


def measurement(tokens_per_s, *, load_us=0.0, setting="", **cpu_us):
    return Measurement(tokens_per_s, 5, 9, cpu_us or {"process": 10}, load_us, 100, setting)


class FakeAlternative:
    def __init__(self, setting, rates):
        self.setting, self.rates, self.is_running = setting, rates, False

    def start(self, stack):
        self.is_running = True
        stack.callback(setattr, self, "is_running", False)
        return self

    def measure(self, streams, _seconds):
        assert self.is_running
        return measurement(self.rates[streams], setting=self.setting)


def test_the_fastest_setting_is_chosen(capsys):
    one, two, four = (
        FakeAlternative(f"{number} threads", {1: a, 8: b})
        for number, a, b in ((1, 100, 100), (2, 90, 200), (4, 50, 150))
    )
    with contextlib.ExitStack() as stack:
        chosen = choose(stack, "llama.cpp", [each.start for each in (one, two, four)], (1, 8), 0.1)
        assert chosen == {1: one, 8: two}
        assert [each.is_running for each in (one, two, four)] == [True, True, False]
    assert "8 streams, llama.cpp: tokens/s 1 threads 100, 2 threads 200, 4 threads 150" in capsys.readouterr().err


def test_ratios_are_of_the_same_round():
    """The ratio is Sostenuto's speed over the other's, round by round, not that of two medians."""
    rounds = [measurement(rate) for rate in (100, 400, 200)]
    results = {(8, FLOAT32): rounds, (8, "other"): [measurement(rate) for rate in (50, 100, 200)]}
    ours, other = speed_rows(results)
    assert ours[4] == "1.00 (1.00–1.00)"
    assert other[:5] == [8, "other", "", "100", "2.00 (1.00–4.00)"]


def test_cpu_times_are_reported_by_part():
    server = measurement(100, load_us=2.0, gateway=3.0, **{"model server": 7.0})
    rows = list(cpu_rows({(1, FLOAT32): [server], (1, "library"): [measurement(1)]}))
    assert [row[2] for row in rows] == ["gateway", "model server", "load generator"]
    assert rows[0][3] == "3.0 (3.0–3.0)"
    assert next(speed_rows({(1, FLOAT32): [server]}))[7] == "10.0"


def test_libraries_of_a_wheel_get_their_links(tmp_path):
    libraries, directory = tmp_path / "bin", tmp_path / "links"
    libraries.mkdir()
    directory.mkdir()
    (libraries / "libllama.so.0.6").write_text("library")
    (libraries / "_symlinks.json").write_text(
        json.dumps({"libllama.so": "libllama.so.0", "libllama.so.0": "libllama.so.0.6"})
    )
    for _ in range(2):
        link_libraries(libraries, directory)
    assert {link.name: link.read_text() for link in directory.iterdir()} == {
        "libllama.so": "library",
        "libllama.so.0": "library",
    }


def test_libraries_are_measured_in_whole_batches():
    def complete(_streams):
        yield from [None] * NEW_TOKENS

    result = measure_completions(complete, streams=8, seconds=0)
    assert result["tokens"] == 8 * NEW_TOKENS
    assert len(result["first_s"]) == 1
    assert 0 < result["first_s"][0] <= result["seconds"]
