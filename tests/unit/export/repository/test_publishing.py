"""A version is published complete and verified, or not at all."""

import concurrent.futures
import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from matplotlib.figure import Figure

from contract.card import load_assets
from contract.tokenizers import CharacterTokenizer
from contract.training_filter import load_training_filter
from export.corpora.training_filter import build_training_filter
from export.errors import CheckFailed, PublishError
from export.graphs import cells, signatures
from export.graphs.cells import StatefulNetwork
from export.graphs.network import read_network
from export.repository import publishing
from export.repository.models_config import add_to_models_config
from export.repository.publishing import publish
from model_server.servable import WARMUP_FILE, Servable, read_requests
from tests.unit.export.models import VOCABULARY, make_model
from tests.unit.export.repository.stored import make_progress
from tests.unit.export.texts import corpus_of

TOKENIZER = CharacterTokenizer.train("abcdefghij")


@pytest.fixture
def models_dir(tmp_path):
    """The path of a repository that does not exist yet."""
    return tmp_path / "models"


def left_in(models_dir):
    """Return everything in a model's directory that is not a version."""
    return [path.name for path in (models_dir / "m").iterdir() if not path.name.isdigit()]


@pytest.fixture
def without_graph(monkeypatch):
    """Publish without a SavedModel, which takes seconds."""
    monkeypatch.setattr(publishing, "_save_graph", lambda draft, *others: draft.mkdir() or others[2])
    monkeypatch.setattr(publishing, "check_saved_model", lambda *_: None)


HISTORY = make_progress((2.0, None), (1.0, None), (0.0, None))


@pytest.fixture(scope="module")
def network():
    return make_model()


@pytest.fixture(scope="module")
def training_filter():
    return build_training_filter(corpus_of("c", ["abcdefghij" * 20], ends=False), TOKENIZER)


@pytest.fixture(scope="module")
def version(network, training_filter, tmp_path_factory):
    """A published version, for tests that only read it."""
    models_dir = tmp_path_factory.mktemp("published") / "models"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StatefulNetwork, "unroll", 1)
        return publish(network, TOKENIZER, "m", models_dir, history=HISTORY, training_filter=training_filter)


def test_a_version_has_the_card_and_tokenizer_that_the_gateway_reads(network, version):
    assert (version.parent.name, version.name) == ("m", "1")
    card, tokenizer = load_assets(version)
    assert tokenizer.to_json() == TOKENIZER.to_json()
    assert (card.cell, card.units, card.state_size, card.vocab_size) == ("lstm", 12, 24, VOCABULARY)
    assert card.weights_sha256 == read_network(network).sha256()
    models_dir = version.parent.parent
    assert 'base_path: "/models/m"' in (models_dir / "models.config").read_text()
    assert left_in(models_dir) == []
    # People read the card, too.
    assert (version / "assets.extra" / "generator.json").read_text().count("\n") > 10


def test_a_version_has_page_embedding_and_history_of_its_model(network, version):
    page, assets = (version / "README.md").read_text(), version / "assets.extra"
    assert page.startswith("# `m`\n\nA model (lstm 1 × 12), imported, that continues a text")
    assert read_network(network).sha256() in page
    vectors = np.loadtxt(assets / "vectors.tsv", delimiter="\t", dtype=np.float32)
    assert np.allclose(vectors, network.layers[0].get_weights()[0][: len(TOKENIZER.tokens)])
    entries = json.loads((assets / "history.json").read_text())
    assert [(entry["best"], entry["train_loss"]) for entry in entries] == [(False, 2.0), (False, 1.0), (True, 0.0)]


def test_a_version_has_the_training_filter_that_its_card_describes(version, training_filter):
    path = version / "assets.extra" / "training.bloom"
    assert load_training_filter(path).to_bytes() == training_filter.to_bytes()
    described = load_assets(version)[0].training_filter
    assert (described.kind, described.num_entries, described.span_tokens) == ("spans", 151, 50)
    assert described.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert "training.bloom" in (version / "README.md").read_text()


def test_a_version_answers_its_own_warmup_requests(version):
    """They are one for every signature and allowed batch size."""
    card, requests = load_assets(version)[0], list(read_requests(version / WARMUP_FILE))
    names = ["serving_default", "prefill", "decode", "decode_full", "score", "embed", "inspect", "next_logprobs"]
    found = [
        (request.model_spec.signature_name, next(iter(request.inputs.values())).tensor_shape.dim[0].size)
        for request in requests
    ]
    assert sorted(found) == sorted((name, batch_size) for name in names for batch_size in card.batch_sizes)
    assert (version / WARMUP_FILE).stat().st_size < 2000 * len(requests)
    servable = Servable("m", 1, version)
    for request in requests:
        for output in servable.predict(request).outputs.values():
            assert np.isfinite(tf.make_ndarray(output).astype(float)).all()


def test_the_hash_of_the_code_is_of_every_module_that_builds_the_graph():
    """`system_fingerprint` has it. What `network` reads is in the hash of the weights."""
    found, waiting = set(), ["signatures", "exportable"]
    while waiting:
        name = waiting.pop()
        if name not in found:
            code = (Path(signatures.__file__).parent / f"{name}.py").read_text()
            waiting += re.findall(r"^from export\.graphs\.(\w+) import", code, re.MULTILINE)
            found.add(name)
    assert set(publishing.GRAPH_MODULES) == found - {"network"}


@pytest.mark.usefixtures("without_graph")
def test_the_next_version_is_one_above_the_highest_number(model, models_dir):
    home = models_dir / "m"
    for name in ("7", "x9", "12a", "-3", "²"):
        (home / name).mkdir(parents=True)
    (home / "99.txt").write_text("junk")
    version = publish(model, TOKENIZER, "m", models_dir)
    assert version.name == "8"
    # Without a training filter, as of a model that was trained elsewhere.
    assert not (version / "assets.extra" / "training.bloom").exists()
    assert load_assets(version)[0].training_filter is None


@pytest.mark.usefixtures("without_graph")
def test_a_version_number_that_is_taken_meanwhile_is_skipped(model, models_dir, monkeypatch):
    """Two exporters at the same time get two versions."""
    theirs = models_dir / "m" / "1" / "saved_model.pb"
    monkeypatch.setattr(publishing, "next_version", lambda home: 1)
    theirs.parent.mkdir(parents=True)
    theirs.write_text("theirs")
    assert publish(model, TOKENIZER, "m", models_dir).name == "2"
    assert theirs.read_text() == "theirs"


def wrong_cell(patch):
    """Make every state slightly wrong."""
    step = cells._LSTMCell.step

    def wrong_step(self, layer_input):
        state, gates = step(self, layer_input)
        return [vector * 1.001 for vector in state], gates

    patch.setattr(cells._LSTMCell, "step", wrong_step)


def wrong_output(patch):
    """Make every logit slightly wrong."""
    project = cells.StatefulNetwork.project
    patch.setattr(cells.StatefulNetwork, "project", lambda self, hidden: project(self, hidden) * 1.01)


def wrong_state(patch):
    """Make every signature return the state that it was given."""
    patch.setattr(signatures, "keep_ended", lambda precision, t, ends, vectors, kept: kept)


def wrong_order(patch):
    """Make `embed` and `prefill` read backwards."""
    scan = signatures.Generator._scan
    patch.setattr(signatures.Generator, "_scan", lambda self, ids, *rest: scan(self, ids[:, ::-1], *rest))


def wrong_logprobs(patch):
    """Make log probabilities of `decode` and `decode_full` differ from those of `score`."""
    draw = signatures.Generator._sample_tokens

    def changed(*arguments, **options):
        token_ids, logprobs, *rest = draw(*arguments, **options)
        return token_ids, logprobs * 0.99, *rest

    patch.setattr(signatures.Generator, "_sample_tokens", changed)


SLOW = (wrong_output, wrong_state, wrong_order)


@pytest.mark.parametrize(
    "wrong",
    [wrong_cell, wrong_logprobs, *(pytest.param(wrong, marks=pytest.mark.slow) for wrong in SLOW)],
)
def test_a_graph_with_wrong_outputs_is_not_published(model, models_dir, monkeypatch, wrong):
    """Errors in a cell, the output layer or a loop are found before the version is visible."""
    wrong(monkeypatch)
    with pytest.raises(CheckFailed):
        publish(model, TOKENIZER, "m", models_dir)
    assert left_in(models_dir) == []
    assert not (models_dir / "m" / "1").exists()


@pytest.mark.parametrize(
    ("place", "name", "error", "message"),
    [
        (publishing, "sync_tree", OSError(28, "No space left on device"), "m: No space left on device"),
        (publishing, "_save_graph", tf.errors.ResourceExhaustedError(None, None, "disk: full"), "m: disk: full"),
        (publishing, "add_to_models_config", OSError(28, "No space left on device"), "m: No space left on device"),
        (Figure, "savefig", RuntimeError("no font"), r"^history\.png cannot be drawn \(RuntimeError: no font\)$"),
    ],
    ids=["system", "TensorFlow", "listing", "plot"],
)
@pytest.mark.usefixtures("without_graph")
def test_a_failure_leaves_no_version_and_no_draft(model, models_dir, monkeypatch, place, name, error, message):
    def fail(draft, *_, **__):
        if isinstance(draft, Path):
            draft.mkdir(exist_ok=True)
        raise error

    monkeypatch.setattr(place, name, fail)
    with pytest.raises(PublishError, match=message):
        publish(model, TOKENIZER, "m", models_dir, history=HISTORY)
    assert list((models_dir / "m").iterdir()) == []
    assert not (models_dir / "models.config").exists()


@pytest.mark.usefixtures("without_graph")
def test_nothing_is_published_beside_a_damaged_models_config(model, models_dir):
    """Otherwise the version would not be listed, and publishing again would make a second one."""
    models_dir.mkdir()
    (models_dir / "models.config").write_text("model_config_list {")
    with pytest.raises(PublishError, match=r"models\.config: "):
        publish(model, TOKENIZER, "m", models_dir)
    assert list((models_dir / "m").iterdir()) == []


def test_a_models_directory_that_cannot_be_created_is_named(model, tmp_path):
    (tmp_path / "models").write_text("in the way")
    with pytest.raises(PublishError, match=r"models/m: "):
        publish(model, TOKENIZER, "m", tmp_path / "models")


@pytest.mark.usefixtures("without_graph")
def test_signatures_return_fifty_most_probable_tokens_or_all_of_a_smaller_vocabulary(models_dir):
    """The card says how many; clients may request as many as that."""
    version_dir = publish(make_model(vocab_size=4), CharacterTokenizer.train("a"), "m", models_dir)
    assert load_assets(version_dir)[0].num_top == 4
    version_dir = publish(make_model(vocab_size=60), CharacterTokenizer.train("a"), "m", models_dir)
    assert load_assets(version_dir)[0].num_top == 50


def test_concurrent_exporters_are_all_listed_in_models_config(tmp_path):
    names = [f"model{i}" for i in range(24)]
    with concurrent.futures.ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(lambda name: add_to_models_config(tmp_path, name), names))
    text = (tmp_path / "models.config").read_text()
    assert all(f'"{name}"' in text for name in names)


@pytest.mark.usefixtures("without_graph")
def test_publishing_removes_the_drafts_of_killed_exporters_only(model, models_dir):
    """A running exporter holds the lock of its draft, so that one stays."""
    home = models_dir / "m"
    (home / ".draft-killed").mkdir(parents=True)
    (home / ".draft-killed.lock").touch()
    with publishing._draft(home) as draft:
        draft.mkdir()
        publish(model, TOKENIZER, "m", models_dir)
        assert sorted(left_in(models_dir)) == [draft.name, f"{draft.name}.lock"]
    assert left_in(models_dir) == []


def test_a_tokenizer_larger_than_the_model_is_refused(model, models_dir):
    with pytest.raises(PublishError, match=f"{VOCABULARY} outputs, too few for a tokenizer of 53 tokens"):
        publish(model, CharacterTokenizer.train("".join(map(chr, range(40, 90)))), "m", models_dir)


@pytest.mark.parametrize("name", ["../m", "m\n", "", ".m", "a b"])
def test_an_invalid_model_name_is_refused(model, models_dir, name):
    """A name can neither lead out of the repository nor break a line of models.config."""
    with pytest.raises(PublishError, match=re.escape(f"got {name!r}")):
        publish(model, TOKENIZER, name, models_dir)
    assert not models_dir.exists()


def test_listing_a_model_again_keeps_models_config(tmp_path):
    """The removal of the last model leaves an empty list."""
    path = tmp_path / "models.config"
    path.write_text("model_config_list {}\n")
    add_to_models_config(tmp_path, "a")
    path.write_text(path.read_text().replace("num_versions: 2", "num_versions: 5"))
    add_to_models_config(tmp_path, "b")
    add_to_models_config(tmp_path, "a")
    assert path.read_text().count("name:") == 2
    assert path.read_text().count("num_versions: 5") == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("model_config_list { konfig {} }", r"models\.config: 1:21"),
        ("", r"models\.config: it has no model_config_list"),
        ("# model_config_list {}\n", r"models\.config: it has no model_config_list"),
    ],
    ids=["a typo", "no bytes", "a comment"],
)
def test_an_invalid_models_config_is_not_overwritten(tmp_path, content, message):
    path = tmp_path / "models.config"
    path.write_text(content)
    with pytest.raises(PublishError, match=message):
        add_to_models_config(tmp_path, "a")
    assert path.read_text() == content
