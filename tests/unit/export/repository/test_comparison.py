"""`compare` prints versions side by side, and says which metrics are comparable."""

import json
import re
from pathlib import Path

import pytest

from contract.tokenizers import CharacterTokenizer, ExactWordTokenizer
from export.repository import display
from export.repository.plots import Run
from tests.commands import main
from tests.unit.export.repository.stored import REPORT, make_progress, store

WORDS = ExactWordTokenizer.train(["one two three"] * 3)
ONLY_BITS = "only bits per character can be compared"


def compared(capsys, *arguments):
    """Run the command and return the cells of each line by its title; notes are under ""."""
    assert main(["compare", *arguments]) == 0
    lines = {}
    for line in capsys.readouterr().out.splitlines():
        title, *cells = re.split(r"  +", line.strip())
        lines[title if cells else ""] = cells or [*lines.get("", []), title]
    return lines


def document(capsys, *arguments):
    assert main(["compare", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys, *arguments):
    assert main(["compare", *arguments]) == 1
    return capsys.readouterr().err


def test_the_best_value_of_each_metric_is_marked(repository, capsys):
    store(repository, "a", validation_loss=1.0, bits_per_character=1.443, accuracy=0.4, parameters=1)
    store(repository, "b", validation_loss=2.0, accuracy=0.6, seconds=30.0, epochs=[3.0, 2.0, 2.5])
    lines = compared(capsys, "a", "b")
    assert lines["validation loss"] == ["1.000 *", "2.000"]
    assert lines["perplexity"] == ["2.72 *", "7.39"]
    assert lines["bits per character"] == ["1.443 *", "2.885"]
    assert lines["accuracy"] == ["40.0%", "60.0% *"]
    assert lines["minutes to the best"] == ["1.5", "0.5 *"]
    assert lines["parameters"] == ["1", "12,345"]
    assert lines["training loss"] == ["1.500", "1.500"]
    assert lines["best epoch"] == ["2", "2 of 3"]
    assert lines["n-gram overlap"] == ["–", "–"]


def test_only_settings_that_differ_are_printed(repository, capsys):
    settings = REPORT["settings"]
    store(repository, "a", settings={**settings, "max_minutes": None, "seed": 0})
    store(repository, "b", settings={**settings, "max_minutes": 2, "seed": 0, "dropout": 0.3})
    lines = compared(capsys, "a", "b")
    assert (lines["dropout"], lines["max_minutes"]) == (["0.1", "0.3"], ["none", "2"])
    assert "seed" not in lines


def test_different_units_are_compared_by_bits_per_character_only(repository, capsys):
    """Nats per word and nats per character are not comparable; no other quality metric gets a mark."""
    store(repository, "a", bits_per_character=2.0, tokens_per_s=2.0)
    store(repository, "b", tokenizer=WORDS, bits_per_character=1.5)
    result = document(capsys, "a", "b")
    assert [name for name, best in result["best"].items() if best] == ["bits_per_character"]
    assert result["best"]["bits_per_character"] == ["b:1"]
    assert result["notes"][0].startswith("the units differ")
    assert result["notes"][0].endswith(ONLY_BITS)


def test_different_vocabularies_of_one_unit_get_a_note(repository, capsys):
    store(repository, "a")
    store(repository, "b", tokenizer=CharacterTokenizer.train("abcdefghi"))
    (note,) = document(capsys, "a", "b")["notes"]
    assert note.startswith("the vocabularies differ")


SHUFFLED = {"held_out": "shuffled_documents"}


def test_validation_splits_of_two_seeds_are_compared_with_a_note_unless_they_are_equal(repository, capsys):
    store(repository, "a", **SHUFFLED, seed=0, held_out_sha256="1" * 64)
    store(repository, "same", **SHUFFLED, held_out_sha256="1" * 64, validation_loss=1.5)
    result = document(capsys, "a", "same")
    assert (result["best"]["validation_loss"], result["notes"]) == (["same:1"], [])
    other = {"seed": 1, "held_out_sha256": "2" * 64, "held_out_characters": 503}
    store(repository, "b", **SHUFFLED, **other, validation_loss=1.5)
    result = document(capsys, "a", "b")
    assert result["best"]["validation_loss"] == ["b:1"]
    (note,) = result["notes"]
    assert note.startswith("each version holds out different documents of the same corpus, sampled by its seed")
    assert "(a:1: 500 characters of documents sampled by seed 0; b:1: 503 characters of documents sampled by" in note


INCOMPARABLE = "no quality metrics can be compared"
LARGER_SHARE = {"settings": {**REPORT["settings"], "validation": 0.2}}
# It is smaller for sliding-window models.
DEFAULT_SHARE = {"settings": {**REPORT["settings"], "validation": None}}


@pytest.mark.parametrize(
    ("a", "b", "note"),
    [
        ({}, {"corpus_sha256": "b" * 64}, f"the corpora differ: {INCOMPARABLE} (a:1: book.txt, 5,000"),
        ({}, {"held_out_sha256": "2" * 64}, f"the validation splits differ: {INCOMPARABLE} (a:1: 500 "),
        (SHUFFLED, {"held_out_sha256": "2" * 64}, "the validation splits differ"),
        (SHUFFLED, {**SHUFFLED, **LARGER_SHARE, "held_out_sha256": "2" * 64}, "the validation splits differ"),
        (
            {**SHUFFLED, **DEFAULT_SHARE},
            {**SHUFFLED, **DEFAULT_SHARE, "card": {"context": 20}, "held_out_sha256": "2" * 64},
            "the validation splits differ",
        ),
    ],
    ids=["corpora", "tails", "a sample and a tail", "samples of different shares", "their default shares"],
)
def test_different_corpora_or_validation_splits_get_a_note_and_no_mark(repository, capsys, a, b, note):
    """A lower loss on another text does not show a better model; the end of a sorted list is no sample of it."""
    store(repository, "a", **a)
    store(repository, "b", **{"validation_loss": 1.0, "train_loss": 1.0, "accuracy": 0.9, **b})
    result = document(capsys, "a", "b")
    assert result["notes"][0].startswith(note)
    assert not any(result["best"].values())


def test_an_imported_model_has_no_metrics(repository, capsys):
    store(repository, "a")
    store(repository, "b", card={"training": None})
    lines = compared(capsys, "a", "b")
    assert lines["validation loss"] == ["2.000", "–"]
    assert "imported, so no quality metrics can be compared: b:1" in lines[""]


def test_a_perplexity_that_overflows_is_null_and_never_the_best(repository, capsys):
    """JSON has no infinity."""
    store(repository, "a", validation_loss=1000.0)
    store(repository, "b")
    assert document(capsys, "a", "b")["models"][0]["perplexity"] is None
    assert compared(capsys, "a", "b")["perplexity"] == ["–", "7.39"]


def test_a_narrow_terminal_gets_several_tables(repository, capsys, monkeypatch):
    names = [f"model-with-a-name-{i}" for i in range(5)]
    for name in names:
        store(repository, name)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["compare", *names]) == 0
    out = capsys.readouterr().out
    assert all(f"{name}:1" in out for name in names)
    assert max(map(len, out.splitlines())) <= 80
    assert out.count("validation loss") == 3


@pytest.mark.parametrize("names", [["m"], ["m", "m:1"], ["m", "n", "m"]])
def test_fewer_than_two_different_versions_are_refused(repository, capsys, names):
    for name in ("m", "n"):
        store(repository, name)
    assert "at least two versions are needed, each named once" in refused(capsys, *names)


def drawn(monkeypatch):
    """Return a list that receives the runs and the unit of each plot."""
    plots, draw = [], display.comparison_png
    monkeypatch.setattr(display, "comparison_png", lambda *a: plots.append(a) or draw(*a))
    return plots


def test_versions_with_a_history_are_plotted(repository, capsys, monkeypatch):
    plots = drawn(monkeypatch)
    store(repository, "a", epochs=[3.0, 2.0, 2.5])
    store(repository, "b", epochs=[4.0, 3.5])
    store(repository, "old")
    out = "\n".join(compared(capsys, "a", "b", "old", "--plot", "p.png")[""])
    assert "not in the plot: old:1, its epochs are unknown" in out
    assert "written p.png: losses in nats per token" in out
    assert Path("p.png").read_bytes().startswith(b"\x89PNG")
    runs = [Run("a:1", make_progress(3.0, 2.0, 2.5)), Run("b:1", make_progress(4.0, 3.5))]
    assert plots == [(runs, "nats per token")]


@pytest.mark.parametrize(
    ("bits", "unit", "scale"), [(1.0, "bits per character", 0.5), (None, "nats per token, of different tokens", 1.0)]
)
def test_different_units_are_plotted_in_bits_per_character(repository, capsys, monkeypatch, bits, unit, scale):
    plots = drawn(monkeypatch)
    store(repository, "a", tokenizer=WORDS, epochs=[3.0, 2.0], bits_per_character=bits)
    store(repository, "b", epochs=[3.0, 2.0], bits_per_character=2.0)
    assert main(["compare", "a", "b", "--plot", "p.png", "--json"]) == 0
    out, err = capsys.readouterr()
    json.loads(out)
    assert f"written p.png: losses in {unit}" in err
    assert ([run.scale for run in plots[0][0]], plots[0][1]) == ([scale, 1.0], unit)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("p.svg", "plot must be a .png file, got p.svg"),
        ("no/p.png", "No such file or directory: 'no/p.png'"),
        ("p.png", "p.png: nothing to plot: no version has a history.json"),
    ],
)
def test_a_plot_that_cannot_be_written_is_an_error(repository, capsys, path, message):
    for name in ("a", "b"):
        store(repository, name, epochs=[2.0] if "/" in path else ())
    assert message in refused(capsys, "a", "b", "--plot", path)
    assert not Path(path).exists()


def test_a_damaged_history_gets_a_note_and_the_rest_is_compared(repository, capsys):
    (store(repository, "a") / "assets.extra" / "history.json").write_text("[")
    store(repository, "b")
    (note,) = document(capsys, "a", "b")["notes"]
    assert note.startswith("a:1: its epochs are unknown: models/a/1/assets.extra/history.json: damaged (Invalid JSON")
