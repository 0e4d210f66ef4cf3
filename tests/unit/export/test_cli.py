"""`sostenuto train`, `resume` and `publish`: from a corpus to a published version; errors are one line."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner

from contract.card import GeneratorCard, load_assets
from contract.tokenizers import CharacterTokenizer
from export import config as config_module
from export.cli import program
from export.config import DEFAULT_RECIPE, FINE_TUNING_RECIPE, RECIPES, Group, TrainConfig, load_config
from export.corpora import training_filter as training_filter_module
from export.repository.models_config import read_entries
from export.training import workflow
from export.training.optimization import Optimization
from tests.commands import main, one_line
from tests.paths import ROOT
from tests.unit.export.trainings import TEXT, NoSamples, scalars, store_trained

SMALL = ["--units", "6", "--embedding", "4", "--batch-size", "4", "--sequence-length", "25", "--epochs", "2"]
SMALL += ["--min-characters", "0"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("book.txt").write_text(TEXT)
    return tmp_path


@pytest.fixture
def computes():
    """Let trainings with `published` compute updates, whose graphs take seconds to trace."""


@pytest.fixture
def published(request, monkeypatch, filters):
    """The arguments of each call of `publish`, which is replaced: exporting and sampling take seconds."""
    return record_published(monkeypatch, filters, computes="computes" in request.fixturenames)


def record_published(monkeypatch, filters, *, computes=False):
    calls = []
    if not computes:
        monkeypatch.setattr(Optimization, "update", lambda *given: (1.0, given[3]))
        monkeypatch.setattr(Optimization, "evaluate", lambda *given: (np.array([1.0, 0.0, 0.0, 0.0]), given[3]))

    def record(model, tokenizer, name, models_dir, training, direction, history, held_out, training_filter):  # noqa: ARG001 - its own
        calls.append((model, tokenizer, training, direction))
        filters.append(training_filter)
        return Path(models_dir) / name / str(len(calls))

    monkeypatch.setattr(workflow, "publish", record)
    monkeypatch.setattr(workflow, "SampleWriter", NoSamples)
    monkeypatch.setattr(workflow, "history_png", lambda *_: b"")
    return calls


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    """The directory of a finished run of one epoch; tests use a copy, `run`."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("book.txt").write_text(TEXT)
        record_published(patch, [])
        assert train("--epochs", "1") == 0
    return folder / "runs/m"


@pytest.fixture
def run(finished_run, published):  # noqa: ARG001 - the command is to publish nothing
    shutil.copytree(finished_run, "runs/m")


@pytest.fixture
def filters():
    """The training filters that were published."""
    return []


def train(*options, corpus="book.txt"):
    return main(["train", "--name", "m", corpus, *SMALL, *options])


def test_help_lists_every_setting_without_importing_tensorflow_optuna_or_numpy():
    code = (
        "import sys\nfrom export.cli import program\n"
        "for command in ('tune', 'train'):\n    program([command, '--help'], standalone_mode=False)\n"
        "print([name for name in ('tensorflow', 'keras', 'optuna', 'numpy', 'flask') if name in sys.modules])"
    )
    outcome = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert outcome.stdout.endswith("[]\n")
    names = {field.alias or name for name, field in TrainConfig.model_fields.items()}
    settings = {f"--{name.replace('_', '-')}" for name in names if name != "corpus"}
    listed = re.findall(r"^  (--[a-z-]+)", outcome.stdout.partition("Usage: ")[2].partition("Usage: ")[2], re.M)
    assert settings | {"--config", "--if-empty", "--models-dir"} <= set(listed)


def test_help_groups_the_settings_and_shows_types_choices_and_defaults():
    out = CliRunner().invoke(program, ["train", "--help"]).stdout
    sections = dict(re.findall(r"^(\w[\w -]+):\n((?:  .*\n)+)", out, re.M))
    assert list(sections) == ["Options", *map(str.capitalize, Group)]
    options = {group: re.findall(r"^  (?:-h, )?(--\S+)", text, re.M) for group, text in sections.items()}
    assert options["Options"] == ["--config", "--help"]
    assert options["Stopping"] == ["--epochs", "--max-minutes", "--patience"]
    assert {"--name", "--models-dir", "--runs-dir"} <= set(options["Output"])
    lines = {group: " ".join(text.split()) for group, text in sections.items()}
    assert re.search(r"--cell \[simple_rnn\|lstm\|gru\] [^-]*\[default: lstm\]", lines["Model"])
    assert re.search(r"--units INTEGER [^-]*\[default: 256\]", lines["Model"])
    assert re.search(r"--learning-rate FLOAT [^-]*\[default: 0.004\]", lines["Optimization"])
    assert re.search(r"--tensorboard / --no-tensorboard [^-]*\[default: no\]", lines["Output"])
    told = " ".join(out.split())
    assert told.count("[default: ") >= len(TrainConfig.model_fields)
    assert "[default: None]" not in told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing command"),
        (["tarin"], "No such command 'tarin'"),
        (["train", "--nome", "x"], "No such option '--nome'"),
        (["train", "one.txt", "two.txt"], "CORPUS: must be one file or directory, got 2"),
        (["train", "--units", "2.5"], "'--units': '2.5' is not a valid integer"),
        (["train", "--unit", "8"], "No such option '--unit'"),
        (["train", "--cell", "rnn"], "'--cell': 'rnn' is not one of"),
        (["vocabulary", "--token-unit", "byte"], "'--token-unit': 'byte' is not one of"),
        (["tune", "--minutes", "inf"], "'--minutes': must be a finite number, got inf"),
        (["tune", "--minutes", "nan"], "'--minutes': must be a finite number, got nan"),
        (["resume"], "Missing argument 'RUN'"),
        (["resume", "run", "--progress-file", "none/p.jsonl"], "'--progress-file': none is not a directory"),
    ],
)
def test_a_usage_error_exits_with_2(arguments, message):
    outcome = CliRunner().invoke(program, arguments)
    assert outcome.exit_code == 2
    assert message in outcome.stderr


def test_missing_and_invalid_settings_are_reported_together(capsys):
    assert main(["train", "--units", "0"]) == 1
    assert "error: corpus is required (CORPUS); units: " in one_line(capsys)


@pytest.fixture
def trained(monkeypatch):
    """The settings of each training run, none of which takes place; the CPU has AMX and no GPU."""
    configs = []
    monkeypatch.setattr(config_module, "has_amx", lambda: True)
    monkeypatch.setattr(config_module, "has_gpu", lambda: False)
    monkeypatch.setattr(workflow, "train", lambda config, *_, **__: configs.append(config) or 0)
    return configs


def test_train_needs_only_a_corpus(trained):
    assert main(["train", "book.txt"]) == 0
    assert trained == [load_config(RECIPES[DEFAULT_RECIPE], {"name": "book", "corpus": "book.txt"})]
    assert 2 < trained[0].max_minutes < 3


@pytest.mark.parametrize(
    ("minutes", "recipe"),
    [
        (0.5, "characters-3-minutes"),
        (6, "characters-3-minutes"),
        (40, "characters"),
        (600, "characters-hour"),
    ],
)
def test_the_recipe_is_the_one_for_the_minutes_of_the_run(trained, capsys, minutes, recipe):
    Path("book.txt").write_text("a" * 1_200_000)
    assert main(["train", "book.txt", "--max-minutes", str(minutes)]) == 0
    assert trained == [load_config(RECIPES[recipe], {"corpus": "book.txt", "max_minutes": minutes})]
    (config,) = trained
    what = f"{config.units} units, dropout {config.dropout:g}, learning rate {config.learning_rate}"
    assert f"recipe {recipe} for {minutes} minutes: {what}; another" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "start"),
    [
        ([], "recipe characters-3-minutes for 2.9 minutes on a CPU without AMX: 512 units"),
        (["--max-minutes", "20"], "recipe characters-3-minutes for 20 minutes on a CPU without AMX: 512"),
        (["--epochs", "7"], "recipe characters-3-minutes: 512 units"),
        (["--config", "words"], "recipe words for 9.8 minutes on a CPU without AMX: 1024 units, dropout 0.7"),
    ],
)
@pytest.mark.usefixtures("trained")
def test_a_slow_cpu_gets_the_recipe_for_a_quarter_of_the_minutes(capsys, monkeypatch, options, start):
    monkeypatch.setattr(config_module, "has_amx", lambda: False)
    monkeypatch.setattr(config_module, "multiplies_bfloat16", lambda: False)
    Path("book.txt").write_text("a" * 300_000)
    assert main(["train", "book.txt", *options]) == 0
    assert capsys.readouterr().out.startswith(start)


@pytest.mark.usefixtures("trained")
def test_the_epochs_of_a_short_text_are_limited(capsys):
    Path("book.txt").write_text("a" * 50_000)
    assert main(["train", "book.txt", "--max-minutes", "20"]) == 0
    assert "recipe characters-3-minutes for 20 minutes or 120 epochs: 512 units" in capsys.readouterr().out


def test_a_recipe_is_found_by_its_name_or_its_path(trained, capsys):
    """A file of one's own comes first; a name that is neither is an error."""
    assert main(["train", "--config", "demo"]) == 0
    Path("demo").write_text('name = "mine"\ncorpus = "book.txt"\n')
    assert main(["train", "--config", "demo"]) == 0
    assert [config.name for config in trained] == ["demo", "mine"]
    assert main(["train", "--config", "dmeo"]) == 1
    assert "dmeo: No such file" in one_line(capsys)


def test_a_recipe_is_found_beside_a_directory_of_its_name(trained):
    """And the default recipe beside a file of its name."""
    Path("demo").mkdir()
    assert main(["train", "--config", "demo"]) == 0
    Path(DEFAULT_RECIPE).write_text("Notes.\n")
    assert main(["train", "book.txt"]) == 0
    assert [config.name for config in trained] == ["demo", "book"]


def test_the_card_reports_the_epoch_whose_weights_are_published(monkeypatch, capsys):
    monkeypatch.setattr(workflow.Trainer, "_validate", lambda _, progress: ([2.0, 1.0, 3.0][progress.epochs], 0.5, 1.0))
    # As for a long text.
    monkeypatch.setattr(config_module, "_MAX_HELD_OUT", 100)
    assert train("--epochs", "3", "--seed", "5") == 0
    card, tokenizer = load_assets(Path("models/m/1"))
    best = json.loads(Path("runs/m/progress.json").read_text())["history"][1]
    training = card.training
    assert (training.train_loss, training.validation_loss) == (best["train_loss"], 1.0)
    assert (training.seconds, training.seed) == (best["seconds"], 5)
    assert training.epochs == pytest.approx(2, abs=0.1)
    assert training.tokens_per_s == pytest.approx(best["tokens"] / best["seconds"])
    assert (training.corpus, training.corpus_characters) == ("book.txt", len(TEXT))
    assert training.train_tokens + training.validation_tokens == pytest.approx(len(TEXT), abs=10)
    assert set(tokenizer.decode(range(len(tokenizer.tokens)))) == set(TEXT)
    assert training.held_out_characters == pytest.approx(100, abs=1)
    # Each token is a character here.
    assert training.bits_per_character == pytest.approx(1 / np.log(2))
    assert training.settings == json.loads(Path("runs/m/config.json").read_text())
    assert [sample.temperature for sample in training.samples] == [0.5, 0.8, 1.0]
    assert all(sample.given in TEXT and sample.text for sample in training.samples)
    assert training.written_spans > 0
    page = Path("models/m/1/README.md").read_text()
    assert "| validation loss | `1.000 nats per token` |" in page
    assert "2 is the best of 3" in page
    pictures = Path("models/m/1/assets.extra/history.png"), Path("runs/m/history.png")
    assert pictures[0].read_bytes() == pictures[1].read_bytes()
    assert "published models/m/1: epoch 2, validation loss 1.000\n" in capsys.readouterr().out


def test_a_run_that_is_not_published_can_be_later(published, capsys):
    assert train("--no-publish") == 0
    assert published == []
    assert re.search(r"publish the best epoch, \d, with:  sostenuto publish runs/m\n", capsys.readouterr().out)
    assert main(["publish", "runs/m"]) == 0
    assert len(published) == 1


def test_a_run_that_is_published_later_has_samples_with_its_labels(published, monkeypatch):
    records = [json.dumps({"text": f"the cat sat {number}", "style": "ab"[number % 2]}) for number in range(80)]
    Path("records.jsonl").write_text("\n".join(records))
    columns = []
    monkeypatch.setattr(workflow, "SampleWriter", lambda *given: columns.append(given[3:]) or NoSamples())
    assert train("--label-column", "style", "--epochs", "1", corpus="records.jsonl") == 0
    assert main(["publish", "runs/m"]) == 0
    assert columns == [(published[0][2].label_columns,)] * 2
    assert published[0][2].label_columns[0].values == ("a", "b")


def test_if_empty_trains_only_if_no_readable_version_exists(published, capsys):
    version = Path("models/m/1")
    (version / "assets.extra").mkdir(parents=True)
    assert train("--if-empty", corpus="no/such.txt") == 1
    assert "no/such.txt" in one_line(capsys)
    (version / "saved_model.pb").touch()
    card = version / "assets.extra/generator.json"
    card.write_text('{"format": 1}')
    assert train("--if-empty", "--epochs", "1") == 0
    assert len(published) == 1
    out = capsys.readouterr().out
    assert "skipped: models/m/1: exported in format 1, but this release reads " in out
    tokenizer = CharacterTokenizer.train(TEXT)
    sizes = {"layers": 1, "units": 6, "embedding": 4, "state_size": 12, "vocab_size": len(tokenizer.tokens)}
    facts = {
        "cell": "lstm",
        "unit": "character",
        "weights_sha256": "",
        "code_sha256": "",
        "tensorflow": "",
        "created": 0,
        "activations": (("hidden", 1, 6),),
        "revision": 3,
    }
    card.write_text(GeneratorCard(name="m", **sizes, **facts).model_dump_json())
    card.with_name("tokenizer.json").write_text(tokenizer.to_json())
    assert train("--if-empty", corpus="no/such.txt") == 0
    assert (
        "models/m/1 exists already: nothing to train\nm is listed in models/models.config now"
        in capsys.readouterr().out
    )
    assert '"m"' in Path("models/models.config").read_text()
    # A model that was removed from the file on purpose is not listed again.
    Path("models/models.config").write_text("model_config_list {}")
    assert train("--if-empty", corpus="no/such.txt") == 0
    assert Path("models/models.config").read_text() == "model_config_list {}"
    # The exporter of a job may have been killed before its version was listed.
    assert train("--if-new", "--job", "ftjob-1", corpus="no/such.txt") == 0
    assert main(["promote", "m:1"]) == 0
    shutil.copytree("models/m/1", "models/m/2")
    assert train("--if-new", "--job", "ftjob-1", corpus="no/such.txt") == 0
    assert [entry.policy.specific for entry in read_entries(Path("models"))] == [{1, 2}]
    # A version of another name counts, too; for `--if-new` it does not.
    assert train("--if-empty", "--name", "other", corpus="no/such.txt") == 0
    assert train("--if-new", corpus="no/such.txt") == 0
    assert train("--if-new", "--name", "other", corpus="no/such.txt") == 1


@pytest.mark.parametrize(
    ("options", "layer"),
    [
        (("--cell", "gru"), "GRU"),
        (("--layers", "2", "--connections", "residual"), "Add"),
        (("--layers", "2", "--connections", "skip"), "Concatenate"),
        (("--tie-embeddings",), "ReversibleEmbedding"),
        (("--bidirectional", "--context-length", "5"), "Bidirectional"),
    ],
    ids=["gru", "residual", "skip", "tied", "both ways"],
)
def test_every_architecture_option_has_its_layer(published, options, layer):
    assert train(*options, "--epochs", "1") == 0
    ((model, _, _, direction),) = published
    assert layer in [type(each).__name__ for each in model.layers]
    assert direction == "forward"


@pytest.mark.usefixtures("computes")
def test_embedding_init_loads_vectors_and_freeze_embedding_keeps_them(published):
    Path("vectors.txt").write_text("".join(f"{c} {i}.5 0 -1 2\n" for i, c in enumerate("abcdet")))
    assert train("--embedding-init", "vectors.txt", "--freeze-embedding", "--epochs", "1") == 0
    model, tokenizer, *_ = published[0]
    table = np.asarray(model.get_layer("embedding").embeddings)
    assert table[tokenizer.tokens.index("c")].tolist() == [2.5, 0, -1, 2]
    assert train("--embedding-init", "vectors.txt", "--epochs", "1") == 0
    assert not np.array_equal(published[1][0].get_layer("embedding").embeddings, table)


@pytest.mark.parametrize("options", [(), ("--embedding-init", "vectors.txt")], ids=["random", "vectors"])
def test_output_biases_start_from_the_frequencies_of_the_text(published, options):
    Path("vectors.txt").write_text("w0 1 0 -1 2\n")
    Path("words.txt").write_text("".join(f"w{i % 100} w{i} " for i in range(200)))
    settings = ["--token-unit", "word", "--validation", "0", "--epochs", "1"]
    assert train(*options, *settings, corpus="words.txt") == 0
    model, tokenizer, *_ = published[0]
    bias, (common, rare) = np.asarray(model.get_layer("logits").bias), map(tokenizer.tokens.index, ["w7", "w107"])
    assert bias[common] - bias[rare] == pytest.approx(np.log((3 + 1) / (1 + 1)), abs=1e-3)


def test_unreadable_vectors_are_an_error_before_a_run_starts(published, capsys):
    """A previous run keeps its directory."""
    assert train("--embedding-init", "none.txt") == 1
    assert "embedding_init none.txt: No such file" in one_line(capsys)
    assert (published, Path("runs/m").exists()) == ([], False)


def test_a_run_resumed_before_its_first_epoch_loads_the_vectors_again(published, monkeypatch):
    Path("vectors.txt").write_text("".join(f"{c} {i}.5 0 -1 2\n" for i, c in enumerate("abcdet")))
    with monkeypatch.context() as patch:
        patch.setattr(workflow.Trainer, "run", interrupted)
        assert train("--embedding-init", "vectors.txt", "--freeze-embedding", "--epochs", "1") == 130
    assert main(["resume", "runs/m"]) == 0
    model, tokenizer, *_ = published[0]
    assert np.asarray(model.get_layer("embedding").embeddings)[tokenizer.tokens.index("c")].tolist() == [2.5, 0, -1, 2]


def interrupted(*_, **__):
    raise KeyboardInterrupt


def test_num_words_bounds_the_ids_of_words(published, capsys):
    assert train("--token-unit", "word", "--num-words", "6", "--epochs", "1") == 0
    assert "num_words = 6 keeps 4 of 10 different words; the others are unknown\n" in capsys.readouterr().out
    assert published[0][1].tokens == ("<pad>", "<OOV>", "the", "cat", "sat", "on", "<start>")


def test_the_corpus_can_come_from_standard_input(published, monkeypatch, capsys):
    Path("mixed.txt").write_text(TEXT + "the cat über" * 5)
    with Path("mixed.txt").open() as pipe:
        monkeypatch.setattr("sys.stdin", pipe)
        assert train("--epochs", "1", "--validation", "0.04", corpus="-") == 0
    assert published[0][2].corpus_characters == len(TEXT) + 60
    assert "53 held out (18.9% of it unknown)" in capsys.readouterr().out


@pytest.mark.parametrize(("baseline", "is_warned"), [(0.01, True), (9.0, False)])
def test_a_model_that_is_no_better_than_ngrams_is_warned_of(published, capsys, monkeypatch, baseline, is_warned):
    monkeypatch.setattr("export.training.dataset.ngram_baseline", lambda *_: (4, baseline))
    assert train("--epochs", "1") == 0
    out, err = capsys.readouterr()
    assert f"baseline: 4-grams of this text reach {baseline:.3f} nats/token" in out
    assert (f"counting 4-grams gives {baseline:.3f}" in err) == is_warned
    assert published[0][2].ngram_loss == baseline


def test_training_without_a_validation_split_warns(published, capsys):
    Path("short.txt").write_text(" ".join(TEXT.split()[:160]))
    assert train("--validation", "0", "--token-unit", "word", corpus="short.txt") == 0
    out, err = capsys.readouterr()
    assert err.startswith("warning: nothing is held out")
    assert "training loss" in out
    training = published[0][2]
    assert (training.validation_loss, training.validation_tokens) == (None, 0)


BAD = {
    "missing": (None, [], "corpus bad.txt: No such file"),
    "one character": (b"a", [], "1 character(s) in 1 document(s) are too few to hold out"),
    "one character, all learned": (b"a", ["--validation", "0"], "at least 2 different characters are needed, got 1"),
    "no word": (b"?! " * 500, ["--token-unit", "word"], "at least 2 different words are needed, got 0"),
    "a tail of another script": (
        b"ab" * 100 + "яю".encode() * 5,
        ["--validation", "0.0476"],
        "has none of the 10 tokens held out",
    ),
    "one document": (b"a long text", ["--documents", "file"], "; give more documents, --documents none or --v"),
}


@pytest.mark.parametrize("case", BAD)
def test_an_invalid_corpus_is_refused_in_one_line(capsys, case):
    content, options, message = BAD[case]
    if content is not None:
        Path("bad.txt").write_bytes(content)
    assert train(*options, corpus="bad.txt") == 1
    assert message in one_line(capsys)
    assert not Path("runs").exists()
    assert not Path("models").exists()


@pytest.mark.parametrize("place", ["models", "models/m"])
def test_a_file_in_place_of_the_models_directory_is_an_error_before_training(capsys, place):
    Path(place).parent.mkdir(exist_ok=True)
    Path(place).write_text("a file")
    assert train() == 1
    assert re.search(rf"version cannot be written to models/m: \S*{place} is not a directory", one_line(capsys))
    assert not Path("runs").exists()


@pytest.mark.parametrize("place", ["models", "models/m"])
def test_an_unwritable_models_directory_is_an_error_before_training(capsys, monkeypatch, place):
    """The message has uid, gid and what to do: in a container, they are seldom the expected ones."""
    Path("models/m").mkdir(parents=True)
    monkeypatch.setattr(os, "access", lambda path, _: Path(path).resolve() != Path(place).resolve())
    assert train() == 1
    uid, gid = os.getuid(), os.getgid()
    assert re.search(
        rf"models/m: uid {uid} \(gid {gid}\) may not write to \S*{place}, which belongs to {uid}:{gid}: "
        rf"let its owner or root run `chown -R {uid}:{gid} \S*{place}`$",
        one_line(capsys).strip(),
    )
    assert not Path("runs").exists()


def test_a_damaged_models_config_is_an_error_before_training(capsys):
    Path("models").mkdir()
    Path("models/models.config").write_text("model_config_list { config {")
    assert train() == 1
    assert "models/models.config: " in one_line(capsys)
    assert not Path("runs").exists()


def test_a_model_larger_than_memory_is_refused_before_training(capsys):
    assert train("--units", "8192", "--layers", "8", "--embedding", "8192") == 1
    assert "units = 8192" in one_line(capsys)


def test_a_diverged_training_can_publish_its_best_epoch(published, monkeypatch, capsys):
    trainer_class = workflow.Trainer

    class Failing(trainer_class):
        def _train_epoch(self, progress, *arguments):
            if progress.epochs == 1:
                self._require_number(float("nan"), "the loss", progress)
            return super()._train_epoch(progress, *arguments)

    monkeypatch.setattr(workflow, "Trainer", Failing)
    assert train() == 1
    out, err = capsys.readouterr()
    assert "stopped after 1 complete epoch(s)\npublish the best, epoch 1, with:  sostenuto publish runs/m\n" in out
    assert "resume" not in out
    assert err == "error: the loss is nan in epoch 2; lower --learning-rate (now 0.01) or --clip-norm (now 1.0)\n"
    assert main(["publish", "runs/m"]) == 0
    history = json.loads(Path("runs/m/progress.json").read_text())["history"]
    assert published[0][2].validation_loss == history[0]["validation_loss"]


@pytest.mark.usefixtures("published")
def test_a_training_that_exhausts_the_memory_says_what_to_lower(monkeypatch, capsys):
    def exhausted(*_):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor\nHint: …")

    monkeypatch.setattr(Optimization, "update", exhausted)
    assert train() == 1
    sizes = "--batch-size (now 4), --sequence-length (now 25) or --units (now 6)"
    assert capsys.readouterr().err == f"error: OOM when allocating tensor; lower {sizes}\n"


def test_an_interrupt_between_training_and_publishing_prevents_publishing(published, monkeypatch, capsys):
    load_best = workflow.RunFolder.load_best

    def pressed_meanwhile(*arguments):
        signal.raise_signal(signal.SIGINT)
        return load_best(*arguments)

    monkeypatch.setattr(workflow.RunFolder, "load_best", pressed_meanwhile)
    assert train("--epochs", "1") == 130
    assert published == []
    assert "publish the best, epoch 1, with:" in capsys.readouterr().out


@pytest.mark.usefixtures("published")
def test_a_full_disk_while_publishing_keeps_the_run(monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(28, "No space left on device", "models/m")

    monkeypatch.setattr(workflow, "publish", full)
    assert train("--epochs", "1") == 1
    out, err = capsys.readouterr()
    assert "publish the best, epoch 1, with:  sostenuto publish runs/m\n" in out
    assert err == "error: [Errno 28] No space left on device: 'models/m'\n"


@pytest.mark.usefixtures("run")
def test_resuming_a_finished_run_only_publishes_it(published, capsys):
    assert main(["resume", "runs/m"]) == 0
    out = capsys.readouterr().out
    assert "nothing is left to train: 1 epochs are done\n" in out
    assert "\npublished models/m/1: epoch 1" in out
    assert main(["publish", "runs/m"]) == 0
    assert published[0][2] == published[1][2]


@pytest.mark.parametrize(
    "unit", ["character", *(pytest.param(unit, marks=pytest.mark.slow) for unit in ("word", "exact_word", "subword"))]
)
def test_the_training_filter_finds_the_training_split_and_not_the_validation_split(published, filters, capsys, unit):
    rng = random.Random(0)
    text = " ".join(rng.choices([f"{a}{b}" for a in "mnprst" for b in ("at", "og", "ill")], k=700))
    Path("random.txt").write_text(text)
    limit = ["--vocab-size", "290"] if unit == "subword" else []
    assert train("--epochs", "1", "--token-unit", unit, *limit, corpus="random.txt") == 0
    (training_filter,), (_, tokenizer, training, _) = filters, published[0]
    assert training.no_training_filter is None
    assert f"training filter: {training_filter.num_entries:,} spans, " in capsys.readouterr().out
    cut = len(text) - training.held_out_characters
    ids, held_out = tokenizer.encode(text[:cut]), tokenizer.encode(text[cut:])
    num_spans = len(ids) - training_filter.span_tokens + 1
    assert training_filter.find_spans(ids).tolist() == [*range(num_spans)]
    assert len(held_out) > 2 * training_filter.span_tokens
    assert not training_filter.contains(held_out, "")


def test_the_training_filter_of_a_backward_model_has_spans_in_its_order_of_generation(published, filters):
    rng = random.Random(0)
    text = "".join(rng.choices("abcdefgh", k=2000))
    Path("random.txt").write_text(text)
    assert train("--epochs", "1", "--direction", "backward", corpus="random.txt") == 0
    assert published[0][3] == "backward"
    ids = published[0][1].encode(text[:1000])
    assert filters[0].contains(ids[::-1], "")
    assert not filters[0].contains(ids, "")


def test_the_training_filter_can_be_left_out_in_the_settings(published, filters, capsys):
    assert train("--epochs", "1", "--no-training-filter") == 0
    assert (filters, published[0][2].no_training_filter) == ([None], "disabled")
    assert "training filter" not in capsys.readouterr().out


def test_too_many_documents_are_published_without_a_training_filter(published, filters, capsys, monkeypatch):
    monkeypatch.setattr(training_filter_module, "MAX_BYTES", 100)
    Path("lines.txt").write_text("\n".join(f"{number:03} cats" for number in range(200)))
    assert train("--epochs", "1", "--documents", "lines", corpus="lines.txt") == 0
    assert (filters, published[0][2].no_training_filter) == ([None], "too_many_documents")
    assert "no training filter: 180 documents are too many\n" in capsys.readouterr().out


@pytest.mark.usefixtures("run")
def test_a_published_run_has_the_training_filter_of_its_training(published, filters):
    assert main(["resume", "runs/m"]) == main(["publish", "runs/m"]) == 0
    assert filters[0].to_bytes() == filters[1].to_bytes()
    Path("book.txt").unlink()
    assert main(["publish", "runs/m"]) == 0
    assert (filters[2], published[2][2].no_training_filter) == (None, "no_corpus")


@pytest.mark.usefixtures("run")
def test_a_run_resumes_only_with_its_own_corpus(capsys):
    Path("book.txt").write_text(TEXT.replace("cat", "cow"))
    assert main(["publish", "runs/m"]) == 0
    assert "corpus book.txt is missing or has changed: samples have no prompt" in capsys.readouterr().out
    assert main(["resume", "runs/m"]) == 1
    assert "corpus book.txt: this is not the text that runs/m started with" in one_line(capsys)
    Path("book.txt").unlink()
    assert main(["resume", "runs/m"]) == 1
    assert "corpus book.txt: No such file or directory" in one_line(capsys)
    assert main(["publish", "runs/m"]) == 0
    assert "corpus book.txt is missing or has changed" in capsys.readouterr().out


def test_a_run_is_published_without_its_validation_corpus_as_it_is_without_its_corpus(published, monkeypatch, capsys):
    """What is left of them is used; text that was trained on takes the place of no held-out text."""
    documents = []
    monkeypatch.setattr(NoSamples, "__init__", lambda _, tokenizer, given, *rest: documents.append(given))
    Path("held.txt").write_text("the cat sat on the hill. ")
    assert train("--epochs", "1", "--validation-corpus", "held.txt") == 0
    book = Path("book.txt").rename("kept.txt")
    assert main(["publish", "runs/m"]) == 0
    out = capsys.readouterr().out
    assert "\ncorpus book.txt is missing or has changed: memorization is not measured" in out
    assert "samples have no prompt" not in out
    book.rename("book.txt")
    Path("held.txt").write_text("another text")
    assert main(["resume", "runs/m"]) == 1
    assert "validation corpus held.txt: this is not the text that runs/m started with" in capsys.readouterr().err
    assert main(["publish", "runs/m"]) == 0
    Path("held.txt").unlink()
    assert main(["publish", "runs/m"]) == 0
    lost = "validation corpus held.txt is missing or has changed: samples have no prompt\n"
    assert capsys.readouterr().out.count(lost) == 2
    assert [call[2].no_training_filter for call in published] == [None, "no_corpus", None, None]
    assert documents == [("the cat sat on the hill. ",)] * 2 + [()] * 2


def test_a_run_without_a_complete_epoch_is_not_publishable(published, monkeypatch, capsys):
    monkeypatch.setattr(workflow.Trainer, "run", interrupted)
    assert train("--models-dir", "my models") == 130
    hint = "sostenuto resume runs/m --models-dir 'my models'\n"
    assert capsys.readouterr().out.endswith(f"stopped after 0 complete epoch(s)\nresume with:  {hint}")
    assert main(["publish", "runs/m", "--models-dir", "my models"]) == 1
    assert one_line(capsys) == f"error: runs/m: no epoch is complete yet; resume with: {hint}"
    assert published == []


@pytest.mark.parametrize("command", ["resume", "publish"])
@pytest.mark.parametrize("path", ["runs/none", "book.txt", "."])
def test_a_path_that_is_not_a_run_is_refused(capsys, command, path):
    assert main([command, path]) == 1
    assert f"{path}: not a run directory" in one_line(capsys)


@pytest.mark.usefixtures("run")
def test_starting_a_run_again_keeps_the_previous_run(published, capsys):
    """A command repeated by mistake does not cost hours of training."""
    assert train("--epochs", "1", "--seed", "1") == 0
    assert "the previous run in runs/m is now in runs/m~" in capsys.readouterr().out
    assert main(["publish", "runs/m~"]) == 0
    assert [training.seed for _, _, training, _ in published] == [1, 0]


def test_an_interrupt_during_the_import_prints_nothing(monkeypatch, capsys):
    monkeypatch.setattr("export.cli.import_tensorflow_quietly", interrupted)
    assert train() == 130
    assert capsys.readouterr() == ("", "")


@pytest.mark.usefixtures("published")
def test_a_character_that_the_terminal_cannot_encode_is_replaced(monkeypatch):
    """Samples contain any character of the corpus; printing one does not end the training."""
    Path("book.txt").write_text(TEXT.replace("a", "я"))
    with Path("out.txt").open("w", encoding="ascii") as out:
        monkeypatch.setattr("sys.stdout", out)
        assert train("--epochs", "1") == 0
    assert "1 ? lstm" in Path("out.txt").read_text()


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_standard_streams_cause_no_traceback(tmp_path, closed):
    (tmp_path / "book.txt").write_text("a text\n" * 9)
    shell = f"{sys.executable} -m export vocabulary {tmp_path}/book.txt {closed}"
    outcome = subprocess.run(shell, shell=True, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (outcome.returncode, outcome.stderr) == (0, "")


@pytest.mark.usefixtures("computes")
def test_an_interrupted_training_can_be_published_and_resumed(published, capsys):
    command = [sys.executable, "-m", "export", "train", "--name", "m", "book.txt", *SMALL, "--epochs", "40"]
    command.append("--tensorboard")
    environment = {"PYTHONPATH": str(ROOT), "PATH": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, **pipes) as process:
        lines = []
        while not lines or not lines[-1].startswith("epoch 2: "):
            lines.append(process.stdout.readline())
            assert lines[-1], process.stderr.read()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert process.returncode == 130
    assert err == "\nstopping after this step; press Ctrl-C again to stop at once\n"
    done = int(re.search(r"stopped after (\d+) complete epoch", out)[1])
    assert 2 <= done < 40
    assert "with:  sostenuto publish runs/m\nresume with:  sostenuto resume runs/m\n" in out
    assert not Path("models").exists()

    assert main(["publish", "runs/m"]) == 0
    assert main(["resume", "runs/m"]) == 0
    assert f"epoch {done + 1}: " in capsys.readouterr().out
    stopped, whole = (training for _, _, training, _ in published)
    assert stopped.epochs <= done
    assert whole.validation_loss < stopped.validation_loss
    history = json.loads(Path("runs/m/progress.json").read_text())["history"]
    assert len(history) == 40
    # The event files of both sessions have every epoch once, at its number of tokens.
    losses = [(epoch["tokens"], pytest.approx(epoch["validation_loss"])) for epoch in history]
    assert scalars(Path("runs/m/tensorboard"))["validation/loss"] == losses


def test_a_corpus_below_min_characters_is_refused(published, capsys):
    Path("few.txt").write_text("abcab cabc")
    assert main(["train", "--name", "m", "few.txt", "--validation", "0"]) == 1
    assert one_line(capsys) == (
        "error: corpus few.txt: at least 1,000 characters are needed, got 10; to train on it anyway, pass "
        "--min-characters 10\n"
    )
    assert not Path("runs").exists()
    assert train("--validation", "0", "--min-characters", "10", "--epochs", "1", corpus="few.txt") == 0
    assert len(published) == 1


NAMES = sorted(
    f"{letter}{vowel}{number}" for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" for vowel in "aeiou" for number in "135"
)


def test_the_validation_split_samples_documents_of_the_whole_corpus(published, capsys):
    Path("names.txt").write_text("\n".join(NAMES))
    assert train("--documents", "lines", "--epochs", "1", "--seed", "4", corpus="names.txt") == 0
    _, tokenizer, training, _ = published[0]
    assert set("ABCDEFGHIJKLMNOPQRSTUVWXYZ") <= set(tokenizer.tokens)
    assert (training.held_out, len(training.held_out_sha256)) == ("shuffled_documents", 64)
    assert "held out, documents sampled by seed 4\n" in capsys.readouterr().out
    assert main(["vocabulary", "names.txt", "--documents", "lines", "--seed", "4"]) == 0
    assert f"a vocabulary of {len(tokenizer.tokens):,} tokens" in capsys.readouterr().out
    # The run saves the hash of the split.
    assert main(["resume", "runs/m"]) == 0
    assert main(["publish", "runs/m"]) == 0
    assert len({training.held_out_sha256 for _, _, training, _ in published}) == 1

    facts = json.loads(Path("runs/m/corpus.json").read_text())
    Path("runs/m/corpus.json").write_text(json.dumps({**facts, "held_out_sha256": "0" * 64}))
    assert main(["resume", "runs/m"]) == 1
    assert train("--documents", "lines", "--epochs", "1", "--validation-corpus", "names.txt", corpus="names.txt") == 0
    assert "sampled by seed" not in capsys.readouterr().out.rpartition("the previous run")[2]


def fine_tune(*options, corpus="letters.txt"):
    return main(["train", corpus, "--from", "base", "--min-characters", "0", *options])


@pytest.fixture
def base():
    """The Keras model of base:1; letters.txt has four characters that are new to it."""
    Path("letters.txt").write_text("the cat, über the hill! " * 60)
    return store_trained(Path("models"), text=TEXT)


@pytest.mark.usefixtures("computes")
def test_a_fine_tuning_goes_on_from_a_published_model(published, base, capsys):
    assert fine_tune("--learning-rate", "1e-9", "--epochs", "1") == 0
    ((model, tokenizer, report, _),) = published
    _, old = load_assets(Path("models/base/1"))
    assert tokenizer.tokens == (*old.tokens, "!", ",", "b", "ü")
    assert (report.settings["name"], report.settings["units"]) == ("letters", 6)
    assert (report.lineage.base, report.lineage.added_tokens) == ("base:1", ("!", ",", "b", "ü"))
    out = capsys.readouterr().out
    assert "fine-tunes base:1, trained on book.txt\n" in out
    assert "4 new token(s), whose weights start from the mean: '!' ',' 'b' 'ü'\n" in out
    assert f" nats/token ({report.base_loss:.3f} before the first update)" in out
    assert report.validation_loss == pytest.approx(report.base_loss, abs=1e-5)
    for name in ("embedding", "recurrent_0", "logits"):
        before, after = (each.get_layer(name).get_weights() for each in (base, model))
        for old_weight, weight in zip(before, after, strict=True):
            kept = weight[tuple(slice(size) for size in old_weight.shape)]
            assert np.allclose(kept, old_weight, atol=1e-6)


@pytest.mark.usefixtures("base")
def test_a_fine_tuning_has_a_recipe_of_its_own(trained):
    assert fine_tune() == fine_tune("--epochs", "90") == 0
    assert fine_tune("--config", "characters") == 1
    recipe = load_config(RECIPES[FINE_TUNING_RECIPE], {"corpus": "letters.txt"})
    assert [config.learning_rate for config in trained] == [recipe.learning_rate] * 2
    assert [(config.epochs, config.max_minutes) for config in trained] == [(recipe.epochs, 2.9), (90, None)]
    assert {(config.units, config.embedding, config.base) for config in trained} == {(6, 4, "base:1")}


@pytest.mark.usefixtures("base")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--units", "7"], "units = 7 contradicts base:1, which has units = 6"),
        (["--token-unit", "word"], "token_unit = word contradicts base:1, which has token_unit = character"),
        (
            ["--token-regex", "a", "--token-regex", "b"],
            "token_regex = a, b contradicts base:1, which has token_regex = none",
        ),
        (["--bidirectional"], "bidirectional = true contradicts base:1, which has bidirectional = false"),
        (["--num-words", "9"], "num_words = 9 contradicts base:1, which has num_words = none"),
        (["--embedding-init", "v.txt"], "embedding_init cannot be combined with from"),
        (["--from", "base:2"], "base has no version 2 in models; it has 1"),
        (["--from", "none"], "no model 'none' in models; it has base"),
        (["--mix", "none.txt"], "mix none.txt: No such file or directory"),
        (["--mix-share", "1"], "mix_share: Input should be less than 1, got 1.0"),
    ],
)
def test_a_setting_that_contradicts_the_base_is_an_error_before_a_run_starts(capsys, options, message):
    assert fine_tune("--cell", "lstm", *options) == 1
    assert f"error: {message}" in one_line(capsys)
    assert not Path("runs").exists()


@pytest.mark.usefixtures("computes")
def test_a_fine_tuning_resumes_to_the_same_bits_without_its_base(published, base, monkeypatch):
    options = ["--mix", "book.txt", "--epochs", "1", "--learning-rate", "0.01"]
    assert fine_tune(*options) == 0
    with monkeypatch.context() as patch:
        patch.setattr(workflow.Trainer, "run", interrupted)
        assert fine_tune(*options) == 130
    shutil.rmtree("models/base")
    assert main(["resume", "runs/letters"]) == 0
    (whole, _, report, _), (resumed, _, resumed_report, _) = published
    assert resumed_report.lineage == report.lineage
    assert (resumed_report.mixed, resumed_report.base_loss) == (report.mixed, report.base_loss)
    for one, other in zip(whole.get_weights(), resumed.get_weights(), strict=True):
        assert one.tobytes() == other.tobytes()
    assert not np.array_equal(
        whole.get_layer("recurrent_0").get_weights()[0], base.get_layer("recurrent_0").get_weights()[0]
    )


@pytest.mark.usefixtures("base", "published")
def test_a_run_that_lost_its_initial_weights_does_not_start_from_random_ones(monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(workflow.Trainer, "run", interrupted)
        assert fine_tune() == 130
    capsys.readouterr()
    weights = Path("runs/letters/initial.npz")
    weights.write_bytes(weights.read_bytes()[:-100])
    assert main(["resume", "runs/letters"]) == 1
    assert "runs/letters/initial.npz: damaged" in one_line(capsys)
    weights.unlink()
    assert main(["resume", "runs/letters"]) == 1
    assert "runs/letters: its initial weights are missing" in one_line(capsys)


@pytest.mark.usefixtures("base")
def test_a_share_of_another_text_is_mixed_in(published, capsys):
    assert fine_tune("--mix", "book.txt", "--mix-share", "0.5", "--epochs", "1") == 0
    report = published[0][2]
    assert (report.mixed.corpus, report.mixed.corpus_characters) == ("book.txt", len(TEXT))
    assert report.mixed.tokens == report.train_tokens / 2
    assert f"of them {report.mixed.tokens:,} of book.txt" in capsys.readouterr().out
    Path("book.txt").write_text(TEXT.replace("cat", "cow"))
    assert main(["resume", "runs/letters"]) == 1
    assert "mix book.txt: this is not the text that runs/letters started with" in one_line(capsys)


def test_documents_get_an_end_token_that_the_base_did_not_have(published, base):
    Path("letters.txt").write_text("the cat\nthe hill\nthe mat\n" * 30)
    assert fine_tune("--documents", "lines", "--epochs", "1") == 0
    ((model, tokenizer, report, _),) = published
    assert tokenizer.tokens[2] == "<end>"
    assert (tokenizer.special.end, report.lineage.added_tokens) == (2, ())
    assert model.get_layer("embedding").embeddings.shape == base.get_layer("embedding").embeddings.shape


@pytest.mark.parametrize("options", [[], ["--token-regex", "fields", "--token-regex", "!+"]], ids=["none", "same"])
def test_the_regular_expressions_of_a_base_are_kept_and_new_characters_are_added(published, options):
    store_trained(Path("models"), text="the cat,!!\nthe hill,!!\n" * 60, token_regex=["fields", "!+"])
    _, old = load_assets(Path("models/base/1"))
    Path("letters.txt").write_text("the cat,!!?\n" * 60)
    assert fine_tune("--epochs", "1", *options) == 0
    ((_, tokenizer, report, _),) = published
    assert tokenizer.tokens == (*old.tokens, "?")
    assert tokenizer.regexes == old.regexes
    settings = report.settings
    assert (settings["token_unit"], settings["token_regex"]) == ("regex", ["fields", "!+"])


def test_words_that_the_base_does_not_know_stay_unknown(published, capsys):
    Path("letters.txt").write_text("the cat sat over the hill " * 60)
    store_trained(Path("models"), token_unit="word")
    assert fine_tune("--epochs", "1") == 0
    assert published[0][2].lineage.added_tokens == ()
    assert (
        "16.7% of the words to train on are unknown to base:1, whose vocabulary stays as it is\n"
        in capsys.readouterr().out
    )


@pytest.mark.usefixtures("base")
@pytest.mark.parametrize(("losses", "is_warned"), [((2.0, 1.9, 2.1), False), ((2.0, 2.0, 2.1), True)])
def test_a_fine_tuning_that_did_not_improve_its_base_is_warned_of(published, monkeypatch, capsys, losses, is_warned):
    remaining = iter(losses)
    monkeypatch.setattr(workflow.Trainer, "_validate", lambda *_: (next(remaining), 0.5, 1.0))
    assert fine_tune("--epochs", "2") == 0
    assert ("no epoch is better than base:1, whose validation loss is 2.000" in capsys.readouterr().err) == is_warned
    assert (published[0][2].base_loss, published[0][2].validation_loss) == losses[:2]
