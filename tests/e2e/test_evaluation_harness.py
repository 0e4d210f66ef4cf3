"""lm-evaluation-harness, unmodified, on the real gateway: its perplexity is the exporter's.

It runs as its own program on tasks in local files; nothing is downloaded.
"""

import json
import math
import os
import subprocess

import pytest

from tests.e2e.conftest import served
from tests.paths import ROOT

pytestmark = pytest.mark.slow

# `make build/lm-eval/.installed` makes it.
PROGRAM = ROOT / "build/lm-eval/bin/lm-eval"

TEXT = "".join(f"It was the {('best', 'worst')[i % 2]} of times, said number {i % 7} of us.\n" for i in range(400))
TASK = {
    "rolling": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "byte_perplexity"}, {"metric": "bits_per_byte"}],
    },
    "greedy": {
        "output_type": "loglikelihood",
        "doc_to_text": "{{context}}",
        "doc_to_target": "{{target}}",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}],
    },
    "until": {
        "output_type": "generate_until",
        "doc_to_text": "{{context}}",
        "doc_to_target": "{{target}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 60, "temperature": 0},
        "metric_list": [{"metric": "exact_match"}],
    },
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model that the exporter trained: directory, card and tokenizer."""
    from contract.card import load_assets
    from tests.commands import main

    folder = tmp_path_factory.mktemp("harness")
    (folder / "corpus.txt").write_text(TEXT, encoding="utf-8")
    arguments = [folder / "corpus.txt", "--name", "small", "--units", 24, "--embedding", 8]
    arguments += ["--epochs", 3, "--batch-size", 8, "--sequence-length", 32]
    arguments += ["--models-dir", folder / "models", "--runs-dir", folder / "runs"]
    assert main(["train", *map(str, arguments)]) == 0
    return folder, *load_assets(folder / "models" / "small" / "1")


@pytest.fixture(scope="module")
def gateway(trained, tmp_path_factory):
    """A gateway that serves only that model: the harness names no model in its tokenize requests."""
    with served(trained[0] / "models", tmp_path_factory.mktemp("logs")) as gateway:
        yield gateway


def evaluate(folder, gateway, task, documents, max_length=2048):
    """Run the harness and return the metrics of a task."""
    home = folder / task
    home.mkdir()
    (home / "documents.json").write_text(json.dumps(documents), encoding="utf-8")
    data = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(home / "documents.json")}}}
    # JSON is YAML.
    (home / "task.yaml").write_text(json.dumps({"task": task, **data, "test_split": "test", **TASK[task]}))
    address = f"http://127.0.0.1:{gateway.port}/v1/completions"
    model = f"model=small,base_url={address},tokenizer_backend=remote,max_length={max_length},num_concurrent=1"
    command = [PROGRAM, "run", "--model", "local-completions", "--model_args", model]
    command += ["--tasks", task, "--include_path", str(home), "--output_path", str(home / "out"), "--batch_size", "4"]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(home / "hf"), "OPENAI_API_KEY": ""}
    environment = {**os.environ, **offline}
    run = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    (results,) = (home / "out").rglob("results_*.json")
    return json.loads(results.read_text())["results"][task]


def test_the_harness_measures_the_perplexity_on_the_card(trained, gateway):
    """The validation split, scored over HTTP in one window, has the card's perplexity to 1e-3."""
    from export.corpora.corpus import read_corpus

    folder, card, _ = trained
    _, tail = read_corpus(str(folder / "corpus.txt")).split(0.1, 0)
    text = "".join(tail.documents)[: card.training.held_out_characters]
    # The harness reserves two tokens of the context.
    metrics = evaluate(folder, gateway, "rolling", [{"text": text}], max_length=len(text) + 2)
    assert metrics["byte_perplexity,none"] == pytest.approx(math.exp(card.training.validation_loss), abs=1e-3)
    assert metrics["bits_per_byte,none"] * math.log(2) == pytest.approx(card.training.validation_loss, abs=1e-3)


def test_the_harness_recognizes_greedy_completions(trained, gateway):
    contexts = ["It was the best", "It was the worst of times, said", "said number 3", "It"]
    documents = []
    for context in contexts:
        greedy = gateway.text(model="small", prompt=context, max_tokens=12, temperature=0)
        documents += [
            {"context": context, "target": greedy},
            {"context": context, "target": greedy[:5] + ("Q" if greedy[5] != "I" else "z") + greedy[6:]},
        ]
    metrics = evaluate(trained[0], gateway, "greedy", documents)
    assert metrics["acc,none"] == 0.5


def test_the_harness_generates_until_a_stop_string(trained, gateway):
    contexts = ["It was the best", "It was the worst of times, said", "said number 3"]
    targets = [gateway.text(model="small", prompt=c, max_tokens=60, temperature=0, stop="\n") for c in contexts]
    documents = [{"context": c, "target": t} for c, t in zip(contexts, targets, strict=True)]
    assert evaluate(trained[0], gateway, "until", documents)["exact_match,none"] == 1.0
