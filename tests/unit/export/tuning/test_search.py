"""`sostenuto tune`: trials are sampled by the seed, the worse ones are stopped, the best run is published."""

import json
import math
import os
import re
import signal
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from contract.card import load_assets
from export.command import locked_directory
from export.config import DEFAULT_RECIPE, RECIPES, load_config
from export.errors import RunError
from export.tuning import search, trials
from tests.commands import main
from tests.waiting import until

REAL_BUDGET, REAL_EXPORT = search.Budget, trials.EXPORT
FAKE = (sys.executable, str(Path(__file__).with_name("fake_exporter.py")))


class SixTrials(search.Budget):
    """A budget of trials in place of minutes, so that no test depends on the machine's speed."""

    trial, rung, deadline = 1.0, 1 / 9, math.inf
    asked = 0

    @property
    def left(self):
        """Return enough for a whole trial, six times."""
        self.asked += 1
        return 2.0 if self.asked <= 6 else 0.0


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A working directory with a text, and a stand-in of the exporter."""
    monkeypatch.chdir(tmp_path)
    Path("book.txt").write_text("text\n")
    monkeypatch.setattr(trials, "EXPORT", FAKE)
    monkeypatch.setattr(search, "EXPORT", FAKE)
    monkeypatch.setattr(trials, "_POLL_S", 0.02)
    monkeypatch.setattr(search, "Budget", SixTrials)
    return tmp_path


def tune(*options):
    return main(["tune", "book.txt", *options])


def rows(out):
    found = re.findall(r"^ +(\d+) +([\d.–]+) +[\d.]+ +\d+  (complete|stopped|out of time|failed) +(.*)$", out, re.M)
    return [(int(number), loss, state.strip(), settings) for number, loss, state, settings in found]


def test_the_worse_trials_are_stopped_and_the_best_is_published(capsys):
    assert tune() == 0
    out = capsys.readouterr().out
    table = rows(out)
    states = {number: state for number, _, state, _ in table}
    losses = [float(loss) for _, loss, _, _ in table]
    assert states[1] == "complete"
    assert "stopped" in states.values()
    assert losses == sorted(losses)
    best = min((float(loss), number) for number, loss, state, _ in table if state == "complete")[1]
    assert f"publishing the best, trial {best}\n" in out
    assert json.loads(Path("published").read_text()) == [f"runs/book-tune/{best}/book"]


def test_a_stopped_trial_was_worse_at_its_rung(capsys):
    tune()
    numbered = sorted(rows(capsys.readouterr().out))
    own = str(load_config(RECIPES[DEFAULT_RECIPE], {"corpus": "book.txt"}).dropout)
    dropout = {number: float((re.findall(r"dropout ([\d.]+)", text) or [own])[0]) for number, _, _, text in numbered}
    for number, _, state, _ in numbered:
        if state == "stopped":
            assert dropout[number] > min(dropout[other] for other in dropout if other < number)


def test_the_same_seed_samples_the_same_settings(capsys):
    """The first two trials have the settings of recipes, with any seed."""
    settings = []
    for seed in (3, 3, 4):
        tune("--seed", str(seed))
        settings.append([text for _, _, _, text in sorted(rows(capsys.readouterr().out))])
    same, again, other = settings
    assert len(same) == 6
    assert same == again
    assert [text in other for text in same] == [True, True, False, False, False, False]


def test_a_given_setting_is_not_searched(capsys):
    tune("--cell", "gru", "--units", "64", "--config", "characters")
    table = rows(capsys.readouterr().out)
    assert len(table) == 6
    assert not any("cell" in text or "units" in text for _, _, _, text in table)
    command = search.run_command(
        search.Trial(1, {}, Path("t"), 1.0),
        search._base_config({"corpus": "book.txt", "cell": "gru", "units": 64}, "characters", search.Budget(1)),
        Path("m"),
        3,
    )
    assert {"--cell=gru", "--units=64", "--name=book", "--dropout=0.6"} <= set(command)


@pytest.mark.parametrize(("connections", "least"), [("none", 1), ("skip", 2)])
def test_connections_of_a_file_of_settings_need_two_layers(connections, least):
    config = load_config(None, {"corpus": "book.txt", "layers": 2, "connections": connections})
    asked = SimpleNamespace(suggest_int=lambda _name, low, _high: low)
    assert search.sample(asked, config, ("layers",)) == {"layers": least}


def test_sampled_sizes_are_within_the_limits_of_the_settings():
    """Otherwise trials would fail, and three in a row end the search."""
    sizes = {"units": 8192, "batch_size": 4096, "sequence_length": 100_000}
    asked = SimpleNamespace(suggest_int=lambda _name, _low, high, **_: high)
    config = load_config(None, {"corpus": "book.txt", **sizes})
    assert search.sample(asked, config, tuple(sizes)) == sizes


def test_the_other_recipes_have_dropout_by_the_length_of_the_text(monkeypatch):
    """As `train` gives it to them."""
    monkeypatch.setattr("export.config.has_amx", lambda: True)
    with Path("book.txt").open("wb") as file:
        file.truncate(4_800_000)
    (other,) = search.other_recipes(DEFAULT_RECIPE, {"corpus": "book.txt", "units": 64})
    assert (other["dropout"], other["embedding_dropout"], "units" in other) == (0.108, 0.036, False)


def test_the_settings_of_recipes_are_those_for_the_minutes_of_a_trial(monkeypatch):
    """Not for the recipe's minutes: a text of a million characters is not read seven times in one minute."""
    monkeypatch.setattr("export.config.has_amx", lambda: True)
    Path("book.txt").write_text("a" * 1_100_000)
    assert tune() == 0
    config = load_config(RECIPES[DEFAULT_RECIPE], {"corpus": "book.txt", "max_minutes": SixTrials.trial})
    assert (config.dropout, config.units) == (0, 384)
    assert {"--dropout=0.0", "--units=384"} <= set(Path("runs/book-tune/1/log.txt").read_text().split())


def test_a_search_from_a_base_leaves_its_architecture():
    """The run's process takes it from the base, so no option may contradict it."""
    given = {"corpus": "book.txt", "from": "english"}
    config = search._base_config(given, None, REAL_BUDGET(20.0))
    assert search.searched(config, given) == ("dropout", "learning_rate", "batch_size", "sequence_length")
    command = search.run_command(search.Trial(1, {"dropout": 0.5}, Path("t"), 1.0), config, Path("m"), 3)
    assert {"--from=english", "--dropout=0.5", "--patience=3", "--models-dir", "m"} <= set(command)
    assert not [option for option in command if option.startswith(("--cell", "--layers", "--units", "--embedding="))]


def test_a_text_to_validate_with_replaces_the_fraction_of_a_file_of_settings():
    """The run's process would take that for one that was given."""
    Path("c.toml").write_text("validation = 0.2")
    given = {"corpus": "book.txt", "validation_corpus": "held.txt"}
    config = search._base_config(given, "c.toml", REAL_BUDGET(20.0))
    command = search.run_command(search.Trial(1, {}, Path("t"), 1.0), config, Path("m"), 3)
    assert "--validation-corpus=held.txt" in command
    assert "--validation=0.2" not in command


def test_trials_look_for_a_base_where_the_best_is_published():
    assert tune("--models-dir", "other") == 0
    assert {"--models-dir", "other"} <= set(Path("runs/book-tune/1/log.txt").read_text().split())
    assert {"--models-dir", "other"} <= set(json.loads(Path("published").read_text()))


@pytest.mark.slow
def test_the_exporter_trains_and_publishes(monkeypatch):
    """Trials of three seconds, with the settings that are given."""
    from tests.unit.export.trainings import TEXT

    for module in (trials, search):
        monkeypatch.setattr(module, "EXPORT", REAL_EXPORT)
    monkeypatch.setattr(SixTrials, "trial", 0.05)
    monkeypatch.setattr(SixTrials, "left", property(lambda budget: 2.0 if not Path("runs/book-tune/2").exists() else 0))
    Path("book.txt").write_text(TEXT)
    small = ["--units", "6", "--embedding", "4", "--batch-size", "4", "--sequence-length", "25"]
    assert tune(*small, "--min-characters", "0") == 0
    card, _ = load_assets(Path("models/book/1"))
    assert card.training.settings["units"] == 6
    assert Path("runs/book-tune/2/log.txt").exists()


def test_ctrl_c_keeps_the_runs_and_says_how_to_publish_the_best(capsys, monkeypatch):
    """The run that was under way is stopped, too."""
    monkeypatch.setenv("FAKE", "--hang")
    progress = Path("runs/book-tune/1/progress.jsonl")

    def interrupt():
        until(lambda: progress.exists() and '"event": "epoch"' in progress.read_text())
        threading.Event().wait(1)  # the search reads it meanwhile
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    code = tune()
    thread.join()
    out = capsys.readouterr().out
    assert code == 130
    assert [state for _, _, state, _ in rows(out)] == ["stopped"]
    assert "publish the best, trial 1, with:  sostenuto publish runs/book-tune/1/book" in out
    assert not Path("published").exists()


@pytest.mark.parametrize(("fake", "code"), [("--interrupted", 0), ("--interrupted --unpublished", 130)])
def test_ctrl_c_does_not_kill_the_exporter_that_publishes(capsys, monkeypatch, fake, code):
    monkeypatch.setenv("FAKE", fake)
    assert tune() == code
    assert Path("published").exists()
    assert ("publish the best, trial" in capsys.readouterr().out) == (code != 0)


def test_if_the_first_trial_fails_the_search_fails_with_its_message(capsys, monkeypatch):
    """A corpus that is missing, say, fails all of them."""
    monkeypatch.setenv("FAKE", "--fail")
    assert tune() == 1
    err = capsys.readouterr().err
    assert err == "error: trial 1: the loss is nan in epoch 1; its log is runs/book-tune/1/log.txt\n"


def test_the_previous_search_is_kept(capsys):
    for _ in range(2):
        assert tune() == 0
    assert "the previous search in runs/book-tune is now in runs/book-tune~" in capsys.readouterr().out
    assert Path("runs/book-tune~/1/progress.jsonl").exists()


@pytest.mark.parametrize("name", ["book-tune", "book-tune~"])
def test_a_training_run_is_not_taken_for_the_previous_search(name, capsys):
    config = Path("runs", name, "config.json")
    config.parent.mkdir(parents=True)
    config.touch()
    assert tune() == 1
    assert capsys.readouterr().err.startswith(f"error: {config} was not written by a search; choose another --name")
    assert config.exists()


@pytest.mark.parametrize("home", ["book-tune", "book-tune~"])
def test_a_trial_that_is_being_resumed_is_not_moved(home, capsys):
    run = Path("runs", home, "1", "book")
    with locked_directory(run, "training run"):
        assert tune() == 1
    assert capsys.readouterr().err.startswith(f"error: {run.parent}: a training run uses this directory")


def test_two_searches_of_a_name_exclude_each_other(monkeypatch):
    """Until the best run is published: the second one would move it."""

    def publish(*_, **__):
        with (
            pytest.raises(RunError, match="another search uses this directory"),
            locked_directory(Path("runs/book-tune"), "search"),
        ):
            pass
        return 0

    monkeypatch.setattr(search, "_run_to_end", publish)
    assert tune() == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("-",), "corpus = -: a search reads the text for each trial; save it in a file"),
        (("book.txt", "--validation-corpus", "-"), "validation_corpus = -: a search reads the text for each trial"),
        (("book.txt", "--validation", "0"), "validation = 0: trials are compared by their validation loss"),
    ],
)
def test_what_cannot_be_searched_is_refused(options, message, capsys):
    assert main(["tune", *options, "--name", "book"]) == 1
    assert capsys.readouterr().err.startswith(f"error: {message}")


def test_without_optuna_the_error_says_how_to_install_it(capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert tune() == 1
    assert capsys.readouterr().err == "error: tune needs Optuna: pip install 'sostenuto-server[tune]'\n"


def test_trials_and_publishing_fit_into_the_minutes():
    for minutes in (6.0, 60.0):
        budget = REAL_BUDGET(minutes)
        assert 2 * (budget.trial + budget.startup) + budget.publishing < minutes
        assert budget.rung == pytest.approx(budget.trial / (9 if minutes == 60 else 3))
