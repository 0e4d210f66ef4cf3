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
from tests.pages import Inspector, Models, Playground
from tests.servers import Gateway, ModelServer
from tests.terminals import environment

LETTERS, NEW = {"early": "abc", "late": "xyz"}, {"new": "mno"}
LENGTHS = (1, 9, 10, 11)


def publish_labelled(folder):
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
    settings = [
        *batches,
        "--units",
        "48",
        "--embedding",
        "16",
        "--dropout",
        "0",
        "--learning-rate",
        "0.02",
        "--ema",
        "0.9",
    ]
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
    models_dir = built("labelled", publish_labelled) / "models"
    logs = tmp_path_factory.mktemp("labels")
    server = ModelServer(models_dir, logs / "model_server.log")
    gateway = Gateway(models_dir, server.port, logs / "gateway.log")
    yield gateway
    gateway.kill()
    server.end()


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


def test_a_number_selects_its_bin(client):
    """Beyond the records, too: it is in the first or the last bin."""
    means = []
    for length in (0.5, 99):
        found = texts(client, labels={"length": length})
        means.append(sum(map(len, found)) / len(found))
    assert means[0] < 3
    assert means[1] > 7


def test_without_labels_texts_are_of_every_kind(client):
    """Neither the first records of the file nor one label is all that a model without labels generates."""
    found = texts(client, count=100)
    shares = [share_of(found, letters) for letters in LETTERS.values()]
    assert min(shares) > 0.2
    assert sum(shares) > 0.9


@pytest.mark.parametrize("model", ["forward", "backward"])
def test_a_prompt_follows_its_labels(gateway, model):
    """A text that contradicts its label is less probable, from its first token on."""
    field = "suffix" if model == "backward" else "prompt"
    sums = []
    for style in LETTERS:
        body = {"model": model, field: "ab", "labels": {"style": style}, "echo": True, "logprobs": 0, "max_tokens": 0}
        status, answer = gateway.post(body)
        assert status == 200, answer
        logprobs = answer["choices"][0]["logprobs"]["token_logprobs"]
        assert len(logprobs) == 2
        assert answer["usage"]["prompt_tokens"] == 2
        sums.append(min(logprobs) if None not in logprobs else None)
    assert sums[0] > sums[1] + 2


def test_the_same_labels_and_seed_give_the_same_bytes(client):
    fields = {"labels": {"style": "late"}, "model": "forward", "max_tokens": 30, "temperature": 1.5}
    alone = client.generate(seed=5, **fields).text
    assert {choice.text for choice in client.generate(seed=5, n=1, **fields).choices} == {alone}
    assert "".join(client.stream(seed=5, resume=True, **fields)) == alone


def test_a_text_is_resumed_with_the_labels_that_it_has(client, gateway):
    fields = {"model": "forward", "seed": 2, "ignore_eos": True}
    whole = client.generate(max_tokens=12, labels={"style": "late"}, **fields)
    first = client.generate(max_tokens=4, labels={"style": "late"}, return_state=True, **fields)
    assert first.text + client.resume(first.state, max_tokens=8, ignore_eos=True).text == whole.text
    status, answer = gateway.post({"state": first.state, "labels": {"style": "late"}})
    assert status == 400
    assert answer["error"]["param"] == "labels"
    assert "labels must be absent with state" in answer["error"]["message"]


def test_a_conversation_keeps_its_labels(client):
    """Its turns continue one text, whose labels are read once."""
    options = {"labels": {"style": "late"}, "max_tokens": 2, "seed": 3, "ignore_eos": True}
    conversation = client.conversation(model="forward", **options)
    for _ in range(3):
        conversation.generate()
    assert len(conversation.text) == 6
    assert set(conversation.text) <= set("xyz")
    conversation.reread()
    assert len(conversation.generate().text) == 2


@pytest.mark.parametrize(
    ("model", "labels", "message"),
    [
        (
            "forward",
            {"stile": "late"},
            "labels must have columns of model 'forward', which are style, length, got 'stile'",
        ),
        ("forward", {"style": "Late"}, "labels.style must be one of early, late; got 'Late'"),
        ("forward", {"length": "long"}, "labels.length must be a number, or one of ..9, 9.."),
        ("plain", {"style": "late"}, "labels must be absent: version 1 of model 'plain' was trained without"),
        ("forward", {"style": ["late"]}, "labels.style must be a valid string, got ['late']"),
        ("forward", ["late"], "labels must be an object"),
    ],
)
def test_unknown_labels_are_refused_with_what_exists(gateway, model, labels, message):
    status, answer = gateway.post({"model": model, "labels": labels})
    assert status == 400
    assert answer["error"]["param"] == "labels"
    assert message in answer["error"]["message"]


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


def test_models_list_their_labels(client, gateway):
    listed = {model.id: model.label_columns for model in client.models()}
    assert listed["plain"] == {}
    assert listed["forward"]["style"] == ["early", "late"]
    assert listed["forward"]["length"][0].startswith("..")
    assert gateway.get("/v1/models/forward")[1]["label_columns"] == listed["forward"]


@pytest.fixture
def run(gateway):
    """Run the program `sostenuto`."""

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


def test_each_request_of_a_batch_has_its_own_labels(run, tmp_path):
    bodies = [
        {"model": "forward", "max_tokens": 30, "seed": i, "labels": {"style": style}}
        for i in range(10)
        for style in LETTERS
    ]
    lines = [
        {"custom_id": f"{body['labels']['style']} {i}", "method": "POST", "url": "/v1/completions", "body": body}
        for i, body in enumerate(bodies)
    ]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, lines)))
    ended = run("batch", str(tmp_path / "in.jsonl"), str(tmp_path / "out.csv"), "--format", "csv")
    assert ended.returncode == 0, ended.stderr
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 20
    for style, letters in LETTERS.items():
        assert share_of([row["text"] for row in rows if row["custom_id"].startswith(style)], letters) >= 0.8


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
    labelled, unlabelled = (first_probability(gateway, labels) for labels in ({"style": "early"}, {}))
    assert labelled > unlabelled + 5
    assert f"probability of this token {labelled:.1f}%" in page.read("#detail-caption").replace(" %", "%")
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
