"""Labels from the training file to the completion: HTTP, SDK, command line, batch files and the page.

The models are trained on words of a, b and c in one style and of x, y and z in the other, short ones and long ones; one
reads from the left, one from the right, and one is fine-tuned on words of a third style.
"""

import csv
import json
import math
import random
import subprocess
import sys

import numpy as np
import pytest

import sostenuto
from tests.activations import read_safetensors
from tests.built import built
from tests.commands import main
from tests.conftest import publish_model, quick_to_load
from tests.e2e.conftest import served
from tests.pages import Inspector, Models, Playground
from tests.terminals import environment

LETTERS, NEW = {"early": "abc", "late": "xyz"}, {"new": "mno"}
LENGTHS = (1, 9, 10, 11)


def publish_labeled(folder):
    """Train a model of each direction on the same labels, and publish one without."""
    folder.mkdir()
    rng, places = random.Random(0), ["--models-dir", str(folder / "models"), "--runs-dir", str(folder / "runs")]

    def write(name, styles, count):
        with (folder / name).open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "style", "length"])
            for number in range(count):
                style, length = styles[number % len(styles)], rng.choice(LENGTHS)
                text = "".join(rng.choices((LETTERS | NEW)[style], k=length))
                # Some records lack a label.
                writer.writerow([text, style if number % 10 else "", length if number % 11 else ""])
        return str(folder / name)

    file, other = write("words.csv", [*LETTERS], 600), write("new.csv", [*NEW], 200)
    batches = ["--batch-size", "8", "--sequence-length", "40", "--epochs", "15", "--min-characters", "0"]
    sizes = ["--units", "48", "--embedding", "16", "--dropout", "0"]
    settings = [*batches, *sizes, "--learning-rate", "0.02", "--ema", "0.9"]
    columns = ["--label-column", "style", "--label-column", "length"]
    with quick_to_load():
        for direction in ("forward", "backward"):
            to = ["--name", direction, "--direction", direction]
            main(["train", file, *to, *columns, *settings, *places])
        base = ["--from", "forward", "--name", "tuned", "--mix", file, "--mix-share", "0.5"]
        main(["train", other, *base, *batches, "--label-column", "style", "--learning-rate", "0.01", *places])
    publish_model(folder / "models", "plain")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    with served(built("labeled", publish_labeled) / "models", tmp_path_factory.mktemp("labels")) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def client(gateway):
    with sostenuto.Client(f"http://127.0.0.1:{gateway.port}") as client:
        yield client


def texts(client, model="forward", count=60, **fields):
    return [choice.text for choice in client.generate(model=model, n=count, max_tokens=40, seed=1, **fields).choices]


def share_of(found, letters):
    """Return the share of the texts that consist of these letters."""
    return sum(bool(text) and set(text) <= set(letters) for text in found) / len(found)


@pytest.mark.parametrize("model", ["forward", "backward"])
@pytest.mark.parametrize("style", LETTERS)
def test_a_label_decides_the_letters(client, model, style):
    assert share_of(texts(client, model, labels={"style": style}), LETTERS[style]) > 0.9


@pytest.mark.parametrize("style", LETTERS | NEW)
def test_a_fine_tuned_model_has_the_labels_of_its_base_and_new_ones(client, style):
    columns, base = (client.model(name).label_columns for name in ("tuned", "forward"))
    assert columns == {"style": ["early", "late", "new"], "length": base["length"]}
    assert share_of(texts(client, "tuned", labels={"style": style}), (LETTERS | NEW)[style]) > 0.8


def test_without_labels_texts_are_of_every_kind(client):
    """Neither the first records of the file nor one label is all that a model without labels generates."""
    found = texts(client, count=100)
    shares = [share_of(found, letters) for letters in LETTERS.values()]
    assert min(shares) > 0.2
    assert sum(shares) > 0.9


@pytest.mark.parametrize("model", ["forward", "backward"])
def test_inspections_and_embeddings_are_given_the_labels(client, tmp_path, monkeypatch, model):
    """Of activations that are read in windows, the first one follows the labels."""
    late, path = {"style": "late"}, tmp_path / "states.safetensors"
    inspected, plain = (client.inspect("abcabc", model=model, labels=labels) for labels in (late, None))
    assert inspected.token_ids == plain.token_ids
    assert all(token.logprob is not None for token in inspected.tokens)
    assert client.embed("ab", model=model, labels=late) != client.embed("ab", model=model)
    monkeypatch.setattr("sostenuto._activations.MAX_TOKENS", 4)
    client.save_activations(path, "abcabc", model=model, labels=late)
    hidden = read_safetensors(path)[0]["hidden_1"].astype(float)
    assert hidden == pytest.approx(np.array(inspected.layers[0].values["hidden"]), abs=2e-3)
    assert np.abs(hidden - np.array(plain.layers[0].values["hidden"])).max() > 0.01


@pytest.fixture
def run(gateway):
    def run(*arguments):
        variables = environment(SOSTENUTO_BASE_URL=f"http://127.0.0.1:{gateway.port}")
        command = [sys.executable, "-m", "sostenuto", *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, env=variables, timeout=60, check=False, stdin=subprocess.DEVNULL
        )

    return run


def test_the_command_line_has_labels(run, client, tmp_path):
    options = ("--model", "forward", "--seed", "1", "--max-tokens", "30")
    ended = run("generate", "", *options, "--label", "style=late", "--label", "length=10")
    labels = {"style": "late", "length": 10}
    assert ended.stdout == client.generate(model="forward", seed=1, max_tokens=30, labels=labels).text
    inspected = json.loads(run("inspect", "xyz", "--model", "forward", "--json", "--label", "style=late").stdout)[
        "tokens"
    ]
    expected = client.inspect("xyz", model="forward", labels={"style": "late"}).tokens
    assert [each["probability"] for each in inspected] == [token.probability for token in expected]
    (tmp_path / "text.txt").write_text("xyz")
    files = str(tmp_path / "text.txt"), "--output", str(tmp_path / "states.safetensors")
    assert (
        "labels.style must be one of" in run("activations", *files, "--model", "forward", "--label", "style=no").stderr
    )
    assert "labels.style must be one of early, late" in run("generate", "", *options, "--label", "style=no").stderr
    assert "is not COLUMN=LABEL" in run("generate", "", *options, "--label", "late").stderr


def test_the_page_has_a_list_of_each_column(open_page, gateway, client):
    """It is that of the chosen model; a text can be continued, and the link and the code have its labels."""
    page = open_page(Playground, gateway)
    page.set(model="plain")
    assert page.page.locator("[id^=label-]").count() == 0
    page.set(model="forward")
    assert page.page.locator("#label-0-0 option").all_inner_texts() == ["any", "early", "late"]
    page.page.select_option("#label-0-0", "late")
    labels = {"style": "late", "length": client.model("forward").label_columns["length"][-1]}
    page.page.select_option("#label-1-0", labels["length"])
    fields = {"model": "forward", "labels": labels, "max_tokens": 5}
    # A text that does not end before.
    seed, text = next((i, text) for i in range(40) if len(text := client.generate(seed=i, **fields).text) == 5)
    assert page.write("", max_tokens="5", seed=str(seed), temperature="1") == text
    page.click("#continue")
    page.wait_for("Done.")
    assert page.text().startswith(text)
    page.click("#code")
    assert '"labels":{"style":"late","length":' in page.read("#code-text")
    page.page.keyboard.press("Escape")
    # It writes the address at once.
    page.click("#share")
    again = open_page(Playground, gateway, page.page.evaluate("location.hash"))
    again.wait_for("Done.")
    assert again.page.input_value("#label-0-0") == "late"
    assert again.text() == page.text()
    again.set(model="plain")
    assert again.page.locator("[id^=label-]").count() == 0


def test_the_inspector_reads_a_text_with_its_labels(open_page, gateway):
    """So does what the model writes with a unit held; a link has the labels, and another model has none."""
    page = open_page(Inspector, gateway)
    page.page.select_option("#model", "forward")
    assert page.page.locator("#label-0-0 option").all_inner_texts() == ["any", "early", "late"]
    page.page.select_option("#label-0-0", "early")
    page.look("forward", "abcabc")
    page.page.locator("#tokens [data-position='0']").click()
    labeled, unlabeled = (first_probability(gateway, labels) for labels in ({"style": "early"}, {}))
    assert labeled > unlabeled + 5
    assert f"probability of this token {labeled:.1f}%" in page.read("#detail-caption").replace(" %", "%")
    page.click("#hold button")
    page.page.locator("#hold-results:not([hidden])").wait_for()
    body = {"model": "forward", "prompt": "a", "max_tokens": 240, "temperature": 0.5, "seed": 1}
    assert page.page.locator("#free").text_content() == gateway.text(**body, labels={"style": "early"})
    page.click("#share")
    again = open_page(Inspector, gateway, page.page.evaluate("location.hash"))
    assert again.page.input_value("#label-0-0") == "early"
    again.look("plain", "the")
    assert again.page.locator("[id^=label-]").count() == 0


def first_probability(gateway, labels):
    """Return the percentage that the model gives the first token of a text with these labels; without any, of two."""
    body = {"model": "forward", "prompt": "a", "labels": labels, "echo": True, "logprobs": 0, "max_tokens": 0}
    status, answer = gateway.post(body)
    assert status == 200, answer
    logprob = answer["choices"][0]["logprobs"]["token_logprobs"][0]
    return 0 if logprob is None else 100 * math.exp(logprob)


def test_a_written_text_is_inspected_with_its_labels(open_page, gateway):
    page = open_page(Playground, gateway)
    page.set(model="forward")
    page.page.select_option("#label-0-0", "late")
    page.write("", max_tokens="5", seed="1")
    address = page.page.locator(".statistics a").get_attribute("href")
    inspector = open_page(Inspector, gateway, address.removeprefix("inspector"))
    assert inspector.page.input_value("#label-0-0") == "late"


def test_the_sample_of_a_version_has_a_label(open_page, gateway):
    """The page of the models shows it before the text."""
    sample = gateway.get("/v1/models/forward")[1]["versions"][0]["sample"]
    assert (sample["given"], sample["labels"]) == ("", {"style": "early"})
    assert set(sample["text"]) <= set("abc")
    shown = open_page(Models, gateway).card("forward").locator(".sample").text_content()
    assert shown == f"style: early\n{sample['text']}"
