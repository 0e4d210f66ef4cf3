"""`verify` reports each damage of a published version in one line, and passes an intact version."""

import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner

from contract.signatures import SCORE
from contract.tokenizers import CharacterTokenizer
from export.cli import program
from export.corpora.training_filter import build_training_filter
from export.graphs.exportable import prepare, prepare_function
from export.graphs.signatures import Generator
from export.repository import verification
from export.repository.publishing import publish
from export.repository.verification import FAILED, NOT_CHECKED, OK, Verification
from export.repository.versions import Version
from tests.commands import main
from tests.conftest import TEXT
from tests.unit.export.models import make_model
from tests.unit.export.texts import corpus_of

TOKENIZER = CharacterTokenizer.train(TEXT)
NUM_TOKENS = len(TOKENIZER.tokens)
CHECKS = ["card", "variables", "saved_model.pb", "signatures", "model.keras", "computation", "history.json"]
CHECKS += ["training.bloom"]


@pytest.fixture(scope="session")
def imported(tmp_path_factory):
    """A version of an imported SavedModel: a function, without a Keras model."""
    table = tf.Variable(np.random.default_rng(0).normal(size=(NUM_TOKENS, NUM_TOKENS)).astype(np.float32))
    function = prepare_function(lambda ids: tf.gather(table, ids), 2, [table], b"")
    return publish(function, TOKENIZER, "imported", tmp_path_factory.mktemp("imported"))


@pytest.fixture
def version(models_dir, tmp_path):
    """A copy of an LSTM version, which a test may damage."""
    return shutil.copytree(models_dir / "lstm" / "1", tmp_path / "models" / "lstm" / "1")


@pytest.fixture(scope="session")
def intact(models_dir):
    return tf.saved_model.load(models_dir / "lstm" / "1")


@pytest.fixture
def quick(monkeypatch, models_dir, intact):
    """Skip what takes long: the comparison of outputs, which has its own tests, and loading an intact copy."""
    load, content = tf.saved_model.load, saved(models_dir / "lstm" / "1")
    monkeypatch.setattr(verification, "check_saved_model", lambda *_: None)
    monkeypatch.setattr(tf.saved_model, "load", lambda path: intact if saved(Path(path)) == content else load(path))


def saved(path):
    """Return the content of the files that TensorFlow loads."""
    return [file.read_bytes() for file in (path / "saved_model.pb", *sorted(path.glob("variables/*")))]


def verified(path):
    outcomes = list(Verification(Version(path, "m:1")).outcomes())
    told = dict(zip(CHECKS, outcomes, strict=True))
    assert all(line.startswith(f"{name}: ") and "\n" not in line for name, (_, line) in told.items())
    return told


def failed(told):
    return [name for name, (verdict, _) in told.items() if verdict == FAILED]


def halved(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def overwritten(path):
    """Change some bytes in the middle of a file."""
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 16] = bytes(byte ^ 255 for byte in content[middle : middle + 16])
    path.write_bytes(content)


def rewritten(path, **fields):
    card = path / "assets.extra" / "generator.json"
    card.write_text(json.dumps({**json.loads(card.read_text()), **fields}))


def test_an_intact_version_passes_every_check(models_dir):
    """History and training filter, which an untrained version lacks, are reported as not checked."""
    told = verified(models_dir / "lstm" / "1")
    assert [verdict for verdict, _ in told.values()] == [OK] * 6 + [NOT_CHECKED] * 2
    assert told["computation"][1] == "computation: it computes the same as model.keras"


@pytest.mark.usefixtures("quick")
def test_the_hash_of_a_sliding_window_model_matches_after_loading(models_dir):
    """Keras creates new random seeds of layers at each load; they are not part of the hash."""
    assert verified(models_dir / "window" / "1")["model.keras"][0] == OK


def test_an_imported_savedmodel_is_compared_with_itself(imported):
    told = verified(imported)
    assert [verdict for verdict, _ in told.values()] == [OK] * 4 + [NOT_CHECKED, OK, NOT_CHECKED, NOT_CHECKED]
    assert "its weights cannot be compared with the card's hash" in told["model.keras"][1]
    assert told["computation"][1].startswith("computation: the signatures agree with each other; without model.keras")


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("damage", "file", "found"),
    [
        (halved, "assets.extra/generator.json", ["card"]),
        (halved, "assets.extra/tokenizer.json", ["card"]),
        (halved, "saved_model.pb", ["saved_model.pb"]),
        (overwritten, "saved_model.pb", ["saved_model.pb"]),
        (halved, "variables/variables.data-00000-of-00001", ["variables", "saved_model.pb"]),
        (overwritten, "variables/variables.data-00000-of-00001", ["variables", "saved_model.pb"]),
        (halved, "variables/variables.index", ["variables", "saved_model.pb"]),
        (halved, "assets.extra/model.keras", ["model.keras"]),
        (overwritten, "assets.extra/model.keras", ["model.keras"]),
    ],
)
def test_a_damaged_file_fails_the_checks_that_read_it(version, damage, file, found):
    damage(version / file)
    told = verified(version)
    assert failed(told) == found
    verdict, line = told["computation"]
    assert verdict == (OK if "model.keras" in found else NOT_CHECKED)
    assert "computes the same" not in line


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("assets.extra/generator.json", "card: assets.extra/generator.json: No such file or directory"),
        ("assets.extra/tokenizer.json", "card: assets.extra/tokenizer.json: No such file or directory"),
        ("saved_model.pb", "saved_model.pb: no such file"),
        ("variables/variables.data-00000-of-00001", "variables.data-00000-of-00001; No such file or directory"),
        ("assets.extra/model.keras", "model.keras: no such file in assets.extra"),
    ],
)
def test_a_missing_file_is_named(version, file, line):
    (version / file).unlink()
    assert any(line in text for verdict, text in verified(version).values() if verdict == FAILED)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("fields", "name", "line"),
    [
        ({"state_size": 49}, "signatures", "inputs of prefill: state must be ('float32', [None, 49]), got ('float32'"),
        ({"vocab_size": NUM_TOKENS + 1}, "signatures", "sizes of outputs of serving_default: logits must be "),
        ({"weights_sha256": "0" * 64}, "model.keras", "but the card says 000000000000…"),
        ({"format": 1}, "card", "card: exported in format 1, but this release reads "),
    ],
)
def test_a_card_of_another_model_fails(version, fields, name, line):
    rewritten(version, **fields)
    told = verified(version)
    assert failed(told) == [name]
    assert line in told[name][1]


def test_weights_of_another_model_fail_hash_and_computation(version):
    make_model(vocab_size=NUM_TOKENS).save(version / "assets.extra" / "model.keras")
    assert failed(verified(version)) == ["model.keras", "computation"]


@pytest.mark.usefixtures("quick")
def test_a_missing_signature_is_named(version, monkeypatch):
    """The gateway would fail only at the first request that needs it."""
    load = tf.saved_model.load

    def without(path):
        loaded = load(path)
        kept = {name: function for name, function in loaded.signatures.items() if name != SCORE}
        return type("Loaded", (), {"signatures": kept})

    monkeypatch.setattr(verification.tf.saved_model, "load", without)
    assert verified(version)["signatures"] == (FAILED, "signatures: score is missing")


def test_nan_weights_fail(version):
    """The SavedModel and the Keras model each have a check for them."""
    model = make_model(units=24, vocab_size=NUM_TOKENS)
    generator = Generator(prepare(model).network, TOKENIZER.special, NUM_TOKENS)
    for weight in (*generator.variables, model.layers[-1].bias):
        weight.assign(np.full(weight.shape, np.nan))
    tf.saved_model.save(generator, str(version), signatures=generator.signatures())
    model.save(version / "assets.extra" / "model.keras")
    told = verified(version)
    assert failed(told) == ["variables", "model.keras", "computation"]
    assert " contain NaN or infinity, such as " in told["variables"][1]
    assert told["model.keras"][1] == "model.keras: a weight is NaN or infinite"


@pytest.mark.usefixtures("quick")
def test_a_custom_keras_layer_is_not_run_and_not_checked(version):
    class Doubled(keras.layers.Layer):
        def call(self, x):
            return 2 * x

    keras.Sequential([keras.layers.Input([3]), Doubled()]).save(version / "assets.extra" / "model.keras")
    told = verified(version)
    assert failed(told) == []
    reason = "model.keras: assets.extra/model.keras: layer class 'Doubled' is not one of Keras's"
    assert told["model.keras"] == (NOT_CHECKED, reason)


@pytest.mark.usefixtures("quick")
def test_a_damaged_history_fails_and_an_intact_one_is_counted(version):
    path = version / "assets.extra" / "history.json"
    path.write_text('[{"train_loss": 1.0, "validation_loss": null, "accuracy": null, "tokens": 1, "seconds": 1.0}]')
    assert verified(version)["history.json"] == (OK, "history.json: 1 epochs")
    path.write_text("[{}]")
    assert failed(verified(version)) == ["history.json"]


@pytest.fixture
def filtered(version):
    training_filter = build_training_filter(corpus_of("c", [TEXT * 2], ends=False), TOKENIZER)
    (version / "assets.extra" / "training.bloom").write_bytes(training_filter.to_bytes())
    rewritten(version, training_filter=training_filter.description().model_dump())
    return version


@pytest.mark.usefixtures("quick")
def test_an_intact_training_filter_is_described(filtered):
    verdict, line = verified(filtered)["training.bloom"]
    spans = 2 * len(TEXT) - 50 + 1
    assert (verdict, line.partition("rate")[0]) == (OK, f"training.bloom: {spans} spans of 50 tokens, false-positive ")


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (halved, "assets.extra/training.bloom: the header says 8192 bits, but the file has 3840"),
        (overwritten, "assets.extra/training.bloom: has the hash "),
        (lambda path: path.unlink(), "no such file"),
        (lambda path: rewritten(path.parents[1], training_filter=None), "the card does not describe it"),
    ],
    ids=["halved", "overwritten", "missing", "another card"],
)
def test_a_damaged_training_filter_fails(filtered, damage, message):
    damage(filtered / "assets.extra" / "training.bloom")
    verdict, line = verified(filtered)["training.bloom"]
    assert (verdict, line.startswith(f"training.bloom: {message}")) == (FAILED, True), line


@pytest.mark.usefixtures("quick")
def test_verify_prints_one_line_per_check(version, capsys):
    models_dir = version.parent.parent
    assert main(["verify", "lstm", "--models-dir", str(models_dir)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "lstm:1"
    assert [line.split(":")[0].split()[-1] for line in lines[1:]] == CHECKS
    rewritten(version, weights_sha256="0" * 64)
    assert main(["verify", "lstm:1", "--models-dir", str(models_dir)]) == 1
    assert "  FAILED       model.keras: its weights have the hash " in capsys.readouterr().out


@pytest.mark.usefixtures("quick")
def test_a_damaged_version_does_not_stop_the_verification_of_others(version, imported, capsys):
    models_dir = version.parent.parent
    shutil.copytree(imported, models_dir / "imported" / "1")
    shutil.rmtree(version / "variables")
    assert main(["verify", "--all", "--models-dir", str(models_dir)]) == 1
    out = capsys.readouterr().out
    assert "  FAILED       variables: no such directory\n" in out
    assert "imported:1\n  ok           card: " in out
    assert out.endswith("2 versions: 1 good, 1 damaged\ndamaged: lstm:1\n")


@pytest.mark.parametrize("options", [[], ["m", "--all"]])
def test_verify_takes_either_a_version_or_all(tmp_path, options):
    outcome = CliRunner().invoke(program, ["verify", *options, "--models-dir", str(tmp_path)])
    assert outcome.exit_code == 2
    assert "verify needs either VERSION or --all" in outcome.stderr


def test_an_empty_repository_passes_the_verification(tmp_path, capsys):
    assert main(["verify", "--all", "--models-dir", str(tmp_path)]) == 0
    assert capsys.readouterr().out.endswith("has no model yet: nothing to verify\n")
