"""`compare` prints versions side by side, and says which metrics are comparable."""

import json
import re
from pathlib import Path

import pytest

from contract.tokenizer import CharacterTokenizer, ExactWordTokenizer
from tests.commands import main
from tests.unit.export.repository.stored import REPORT, store

WORDS = ExactWordTokenizer.train(["one two three"] * 3)
ONLY_BITS = "only bits per character can be compared"


@pytest.fixture(autouse=True)
def models_dir(tmp_path, monkeypatch):
    """An empty repository at the default path."""
    monkeypatch.chdir(tmp_path)
    Path("models").mkdir()
    return Path("models")


def compared(capsys, *arguments):
    """Run the command and return the cells of each line by its title; notes are under ""."""
    assert main(["compare", *arguments]) == 0
    lines = {}
    for line in capsys.readouterr().out.splitlines():
        title, *cells = re.split(r"  +", line.strip())
        lines[title if cells else ""] = cells or [*lines.get("", []), title]
    return lines


def document(capsys, *arguments):
    """Run the command and return its JSON."""
    assert main(["compare", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys, *arguments):
    """Run the command, which must fail, and return its error."""
    assert main(["compare", *arguments]) == 1
    return capsys.readouterr().err


def test_the_best_value_of_each_metric_is_marked(models_dir, capsys):
    """The lowest loss and the highest accuracy are the best. Sizes and equal values get no mark."""
    store(models_dir, "a", validation_loss=1.0, bits_per_character=1.443, accuracy=0.4, parameters=1)
    store(models_dir, "b", validation_loss=2.0, accuracy=0.6, seconds=30.0, epochs=[3.0, 2.0, 2.5])
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


def test_only_settings_that_differ_are_printed(models_dir, capsys):
    """They may be the cause of a difference."""
    settings = REPORT["settings"]
    store(models_dir, "a", settings={**settings, "max_minutes": None, "seed": 0})
    store(models_dir, "b", settings={**settings, "max_minutes": 2, "seed": 0, "dropout": 0.3})
    lines = compared(capsys, "a", "b")
    assert (lines["dropout"], lines["max_minutes"]) == (["0.1", "0.3"], ["none", "2"])
    assert "seed" not in lines


def test_different_units_are_compared_by_bits_per_character_only(models_dir, capsys):
    """Nats per word and nats per character are not comparable; no other quality metric gets a mark."""
    store(models_dir, "a", bits_per_character=2.0, tokens_per_s=2.0)
    store(models_dir, "b", tokenizer=WORDS, bits_per_character=1.5)
    result = document(capsys, "a", "b")
    assert [name for name, best in result["best"].items() if best] == ["bits_per_character"]
    assert result["best"]["bits_per_character"] == ["b:1"]
    assert result["notes"][0].startswith("the units differ")
    assert result["notes"][0].endswith(ONLY_BITS)


def test_different_vocabularies_of_one_unit_get_a_note(models_dir, capsys):
    """Their tokens differ, so their losses per token are not comparable."""
    store(models_dir, "a")
    store(models_dir, "b", tokenizer=CharacterTokenizer.train("abcdefghi"))
    (note,) = document(capsys, "a", "b")["notes"]
    assert note.startswith("the vocabularies differ")


SHUFFLED = {"held_out": "shuffled_documents"}


def test_validation_splits_of_two_seeds_are_compared_with_a_note(models_dir, capsys):
    """Both are random samples of one corpus, of almost the same size."""
    store(models_dir, "a", **SHUFFLED, seed=0, held_out_sha256="1" * 64)
    other = {"seed": 1, "held_out_sha256": "2" * 64, "held_out_characters": 503}
    store(models_dir, "b", **SHUFFLED, **other, validation_loss=1.5)
    result = document(capsys, "a", "b")
    assert result["best"]["validation_loss"] == ["b:1"]
    (note,) = result["notes"]
    assert note.startswith(
        "each version holds out different documents of the same corpus, sampled by its seed, so small"
    )
    assert note.endswith(
        "(a:1: 500 characters of documents sampled by seed 0; b:1: 503 characters of documents sampled by seed 1)"
    )


def test_equal_validation_splits_are_compared_without_a_note(models_dir, capsys):
    """The same seed sampled them."""
    store(models_dir, "a", **SHUFFLED, held_out_sha256="1" * 64)
    store(models_dir, "b", **SHUFFLED, held_out_sha256="1" * 64, validation_loss=1.5)
    result = document(capsys, "a", "b")
    assert (result["best"]["validation_loss"], result["notes"]) == (["b:1"], [])


@pytest.mark.parametrize(
    "other",
    [
        {"held_out": "tail", "held_out_sha256": "2" * 64},
        {**SHUFFLED, "settings": {**REPORT["settings"], "validation": 0.2}, "held_out_sha256": "2" * 64},
    ],
    ids=["a tail", "a larger share"],
)
def test_a_sampled_validation_split_is_not_compared_with_others(models_dir, capsys, other):
    """The end of a sorted list is no random sample of it, even if it has the same size."""
    store(models_dir, "a", **SHUFFLED, held_out_sha256="1" * 64)
    store(models_dir, "b", **other, validation_loss=1.5)
    result = document(capsys, "a", "b")
    assert result["notes"][0].startswith("the validation splits differ: no quality metrics can be compared (a:1: 500 ")
    assert not any(result["best"].values())


@pytest.mark.parametrize(
    ("report", "note"),
    [
        (
            {"corpus_sha256": "b" * 64},
            "the corpora differ: no quality metrics can be compared (a:1: book.txt, 5,000",
        ),
        ({"held_out_sha256": "2" * 64}, "the validation splits differ: no quality metrics can be compared (a:1: 500 "),
    ],
)
def test_different_corpora_or_validation_splits_get_a_note_and_no_mark(models_dir, capsys, report, note):
    """A lower loss on another text does not show a better model."""
    store(models_dir, "a")
    store(models_dir, "b", **{"validation_loss": 1.0, "train_loss": 1.0, "accuracy": 0.9, **report})
    result = document(capsys, "a", "b")
    assert result["notes"][0].startswith(note)
    assert not any(result["best"].values())


def test_an_imported_model_has_no_metrics(models_dir, capsys):
    """It has a column in the table, and a note says why no metric is marked."""
    store(models_dir, "a")
    store(models_dir, "b", card={"training": None})
    lines = compared(capsys, "a", "b")
    assert lines["validation loss"] == ["2.000", "–"]
    assert "imported, so no quality metrics can be compared: b:1" in lines[""]


def test_a_perplexity_that_overflows_is_null_and_never_the_best(models_dir, capsys):
    """JSON has no infinity."""
    store(models_dir, "a", validation_loss=1000.0)
    store(models_dir, "b")
    assert document(capsys, "a", "b")["models"][0]["perplexity"] is None
    assert compared(capsys, "a", "b")["perplexity"] == ["–", "7.39"]


def test_a_narrow_terminal_gets_several_tables(models_dir, capsys, monkeypatch):
    """Every version is in one of them."""
    names = [f"model-with-a-name-{i}" for i in range(5)]
    for name in names:
        store(models_dir, name)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["compare", *names]) == 0
    out = capsys.readouterr().out
    assert all(f"{name}:1" in out for name in names)
    assert max(map(len, out.splitlines())) <= 80
    assert out.count("validation loss") == 3


@pytest.mark.parametrize("names", [["m"], ["m", "m:1"], ["m", "n", "m"]])
def test_fewer_than_two_different_versions_are_refused(models_dir, capsys, names):
    """A version is not compared with itself."""
    for name in ("m", "n"):
        store(models_dir, name)
    assert "at least two versions are needed, each named once" in refused(capsys, *names)


def drawn(monkeypatch):
    """Return a list that receives the plotted figures."""
    from export.repository import comparison_plot

    figures, figure = [], comparison_plot._figure
    monkeypatch.setattr(comparison_plot, "_figure", lambda *a: figures.append(figure(*a)) or figures[-1])
    return figures


def test_losses_are_plotted_by_epoch_and_by_minutes(models_dir, capsys, monkeypatch):
    """Each version has one colour: validation solid, training dashed. Versions without a history are named."""
    figures = drawn(monkeypatch)
    store(models_dir, "a", epochs=[3.0, 2.0, 2.5])
    store(models_dir, "b", epochs=[4.0, 3.5])
    store(models_dir, "old")
    out = "\n".join(compared(capsys, "a", "b", "old", "--plot", "p.png")[""])
    assert "not in the plot: old:1, its epochs are unknown" in out
    assert "written p.png: losses in nats per token" in out
    assert Path("p.png").read_bytes().startswith(b"\x89PNG")
    by_epoch, by_minutes = figures[0].axes
    curves = [line for line in by_epoch.lines if len(line.get_xdata()) > 1]
    assert [(line.get_linestyle(), list(line.get_ydata())) for line in curves] == [
        ("--", [pytest.approx(2.9), pytest.approx(1.9), pytest.approx(2.4)]),
        ("-", [3.0, 2.0, 2.5]),
        ("--", [pytest.approx(3.9), pytest.approx(3.4)]),
        ("-", [4.0, 3.5]),
    ]
    assert curves[0].get_color() == curves[1].get_color() != curves[2].get_color()
    assert list(by_minutes.lines[1].get_xdata()) == [1, 2, 3]


@pytest.mark.parametrize(
    ("bits", "unit", "first"), [(1.0, "bits per character", 1.5), (None, "nats per token, of dif", 3.0)]
)
def test_different_units_are_plotted_in_bits_per_character(models_dir, capsys, monkeypatch, bits, unit, first):
    """All versions must have them. Otherwise the axis says that the losses are of different tokens."""
    figures = drawn(monkeypatch)
    store(models_dir, "a", tokenizer=WORDS, epochs=[3.0, 2.0], bits_per_character=bits)
    store(models_dir, "b", epochs=[3.0, 2.0], bits_per_character=2.0)
    assert main(["compare", "a", "b", "--plot", "p.png", "--json"]) == 0
    out, err = capsys.readouterr()
    json.loads(out)
    assert f"written p.png: losses in {unit}" in err
    assert figures[0].axes[0].get_ylabel().startswith(f"loss, {unit}")
    assert figures[0].axes[0].lines[1].get_ydata()[0] == first


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("p.svg", "plot must be a .png file, got p.svg"),
        ("no/p.png", "No such file or directory: 'no/p.png'"),
        ("p.png", "p.png: nothing to plot: no version has a history.json"),
    ],
)
def test_a_plot_that_cannot_be_written_is_an_error(models_dir, capsys, path, message):
    """No file is left."""
    for name in ("a", "b"):
        store(models_dir, name, epochs=[2.0] if "/" in path else ())
    assert message in refused(capsys, "a", "b", "--plot", path)
    assert not Path(path).exists()


def test_a_damaged_history_gets_a_note_and_the_rest_is_compared(models_dir, capsys):
    """The epochs of that version are unknown."""
    (store(models_dir, "a") / "assets.extra" / "history.json").write_text("[")
    store(models_dir, "b")
    (note,) = document(capsys, "a", "b")["notes"]
    assert note.startswith("a:1: its epochs are unknown: models/a/1/assets.extra/history.json: damaged (Invalid JSON")
