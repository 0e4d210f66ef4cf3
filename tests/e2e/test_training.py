"""Training by the API: `sostenuto serve` in an empty directory, the page, the SDK, the command and OpenAI's clients."""

import json
import os
import re
import signal
import subprocess
import sys

import openai
import pytest

import sostenuto
from tests.documents import PAGES, blocks, read
from tests.node import run_node
from tests.pages import Train
from tests.paths import ROOT
from tests.ports import free_port
from tests.programs import program, write_entry_points
from tests.servers import Client, Process, children, command_line
from tests.waiting import until

LINE = "It was the best of times, it was the worst of times, it was the age of wisdom.\n"
# What the page removes from a book of Project Gutenberg.
START = "*** START OF THE PROJECT GUTENBERG EBOOK TWO CITIES ***\n"
END = "*** END OF THE PROJECT GUTENBERG EBOOK TWO CITIES ***\nYou may copy it.\n"
TEXT = "".join(f"{LINE.strip()} {number}\n" for number in range(60))
# A run of seconds: tiny, and evaluated once.
SHORT = {"units": 16, "embedding": 8, "batch_size": 4, "max_minutes": 0.05}
# Importing TensorFlow takes most of a job; beside other tests that may be a minute.
PATIENCE_S = 240

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="signals of Linux")


class Training(Process):
    """`sostenuto serve` without models, and its clients."""

    def __init__(self, home):
        self.port, self.home, commands = free_port(), home, home.parent / "commands"
        for folder in (home, commands):
            folder.mkdir()
        write_entry_points(commands)
        for name in ("service", "model_server", "contract", "export", "jobs"):
            (home / f"{name}.py").write_text("raise SystemExit('not the project's')\n")
        (home / "book.txt").write_text(TEXT)
        self.url = f"http://127.0.0.1:{self.port}"
        command = [sys.executable, "-P", "-m", "sostenuto", "serve", "--port", str(self.port)]
        path = os.pathsep.join(map(str, (commands, ROOT, ROOT / "client/src")))
        super().__init__(command, home.parent / "serve.log", cwd=home, PYTHONPATH=path, SOSTENUTO_METRICS_PORT="0")
        self.wait_until(lambda: "ready after" in self.output, timeout=200)

    def run(self, *arguments):
        path = f"{ROOT / 'client/src'}{os.pathsep}{ROOT}"
        environment = {**os.environ, "PYTHONPATH": path, "SOSTENUTO_BASE_URL": self.url}
        command = [sys.executable, "-P", "-m", "sostenuto", *arguments]
        return subprocess.run(
            command, cwd=self.home, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )


@pytest.fixture(scope="module")
def serving(tmp_path_factory):
    """A server in a directory that has a text by the time it is ready, and modules of the names of the project's."""
    running = Training(tmp_path_factory.mktemp("training") / "home")
    yield running
    assert running.end(signal.SIGINT, timeout=120) == 0


@pytest.fixture
def client(serving):
    with sostenuto.Client(serving.url) as made:
        yield made


@pytest.fixture(scope="module")
def trained(serving):
    """A job of the SDK that has succeeded; its model answered as soon as `wait` returned."""
    with sostenuto.Client(serving.url, max_retries=0) as client:
        job = client.train(TEXT, name="sdk", validation=LINE * 10, seed=3, **SHORT).wait(PATIENCE_S)
        assert len(client.generate("It was", model="sdk", max_tokens=5, seed=1).text) == 5
        yield job


def lower_minutes(route):
    """Pass on a request for a job, with a time limit that no preset has."""
    body = json.loads(route.request.post_data or "null")
    if body is None:
        return route.continue_()
    assert body["settings"] == {"max_minutes": 2.9, "documents": "none", "units": 16}
    assert (body["model"], body["suffix"], body["seed"]) == ("characters-3-minutes", "cities", 5)
    body["settings"]["max_minutes"] = 0.05
    return route.continue_(post_data=json.dumps(body))


def test_a_text_that_is_pasted_becomes_a_model_that_writes(open_page, serving):
    page = open_page(Train, serving)
    page.page.goto(page.url)
    page.page.wait_for_url("**/train")
    page.page.locator("#lead", has_text="No model is served yet").wait_for()
    page.describe(f"{START}{TEXT}{END}")
    page.page.get_by_role("button", name="Remove the license").click()
    assert page.page.input_value("#text").strip() == TEXT.strip()
    page.page.fill("#name", "cities")
    page.click("#advanced summary")
    page.page.fill("#units", "16")
    page.page.fill("#seed", "5")
    page.page.route("**/v1/fine_tuning/jobs", lower_minutes)
    page.start()
    page.page.reload()
    page.wait_for_status("published", timeout_ms=1000 * PATIENCE_S)
    assert page.page.locator("#samples li").count() >= 1
    assert page.page.locator("#samples li").first.inner_text().startswith("Epoch ")
    assert page.page.locator("#chart .best").count() == 1
    assert '"model":"cities"' in page.read("#curl")
    assert f"{page.url}v1/completions" in page.read("#curl")
    assert page.page.locator("#jobs-list tr").all_inner_texts()[0].startswith("cities\tpublished")
    page.click("#write")
    page.page.locator("#model-0 option").first.wait_for(state="attached")
    page.page.fill("#prompt", "It was")
    page.click("#generate")
    page.wait_for("Done.")
    assert page.page.input_value("#model-0") == "cities"
    page.page.go_back()
    # The samples come after the job's status, and the link has one of them.
    page.page.locator("#samples li").first.wait_for()
    page.click("#inspect")
    page.page.locator("#model option").first.wait_for(state="attached")
    assert page.page.input_value("#model") == "cities"
    assert len(page.page.input_value("#text")) > 20
    page.page.goto(page.url + "models")
    assert page.read(".cards h2") == "cities"
    page.page.get_by_role("link", name="Train it further").click()
    page.page.locator("#base option", has_text="cities").wait_for(state="attached")
    assert page.page.input_value("#base") == "cities"
    assert page.page.is_disabled("#units")


def test_the_sdk_trains_follows_and_generates_at_once(client, serving, trained):
    assert f"sostenuto train book.txt --server {serving.url}" in serving.output
    job = client.job(trained.id)
    events = list(job.events())
    assert (job.status, job.fine_tuned_model, job.version) == ("succeeded", "sdk", 1)
    assert [event.message for event in events][:2] == ["the job is queued", "training"]
    assert events[-1].message == "published sdk:1"
    epochs = [event for event in events if event.is_best is not None]
    assert [event.epoch for event in epochs] == list(range(1, len(epochs) + 1))
    assert all(event.validation_loss > 0 and event.samples[0]["text"] for event in epochs)
    middle = events[len(events) // 2]
    assert list(job.events(after=middle.id)) == events[len(events) // 2 + 1 :]
    assert job.plot().svg.count("<polyline") == 2
    assert [model.id for model in client.models() if model.id == "sdk"] == ["sdk"]


def test_a_stream_survives_the_death_of_the_model_server(serving, trained):
    client = Client(serving.port)
    body = {"model": trained.fine_tuned_model, "prompt": "It", "seed": 1, "max_tokens": 20_000}
    events = client.stream(**body)
    first = next(events)["choices"][0]["text"]
    (model_server,) = [pid for pid in children(serving.process.pid) if "model_server" in command_line(pid)]
    os.kill(model_server, signal.SIGKILL)
    rest = [event["choices"][0] for event in events if event and event["choices"]]
    assert (rest[-1]["finish_reason"], "restarting it" in serving.output) == ("length", True)
    assert first + "".join(choice["text"] for choice in rest) == client.text(**body)


@pytest.mark.slow
def test_training_continues_from_a_served_model(client, trained):
    job = client.train(TEXT.upper(), model=trained.fine_tuned_model, name="tuned", minutes=0.05).wait(PATIENCE_S)
    assert (job.model, job.fine_tuned_model, job.version) == ("sdk:1", "tuned", 1)
    assert client.generate("IT WAS", model="tuned", max_tokens=3).text


@pytest.mark.slow
def test_a_job_trains_with_labels(client, serving):
    """The model uses them; a column that the file lacks fails the job by its name."""
    rows = [f"{word * 3},{style}" for style, word in (("early", "abc"), ("late", "xyz")) for _ in range(400)]
    (serving.home / "words.csv").write_text("\n".join(["text,style", *rows, ""]))
    settings = {**SHORT, "sequence_length": 32, "min_characters": 0, "learning_rate": 0.02}
    settings |= {"epochs": 6, "max_minutes": None}
    client.train(serving.home / "words.csv", label_column=["style"], **settings).wait(PATIENCE_S)
    assert client.model("words").label_columns == {"style": ["early", "late"]}
    early, late = (client.score("abcabcabc", model="words", labels={"style": it}) for it in ("early", "late"))
    assert early.nats < late.nats
    with pytest.raises(sostenuto.JobFailed, match="color"):
        client.train(serving.home / "words.csv", label_column=["color"], **settings).wait(PATIENCE_S)


@pytest.mark.slow
def test_the_command_trains_and_its_next_command_runs(serving):
    options = [f"--{name.replace('_', '-')}={value}" for name, value in SHORT.items()]
    shown = serving.run("train", "book.txt", "--server", serving.url, *options)
    assert (shown.returncode, shown.stderr) == (0, "")
    *_, hint, command = shown.stdout.splitlines()
    assert "epoch 1: training loss" in shown.stdout
    assert (hint, "published book:1" in shown.stdout) == ("try it:", True)
    arguments = [*command.split()[1:4], "It was", "--max-tokens", "4"]
    assert arguments[:3] == ["generate", "--model", "book"]
    assert len(serving.run(*arguments).stdout) == 4
    listed = serving.run("jobs").stdout
    assert "book:1" in listed
    job_id = next(line.split()[0] for line in listed.splitlines() if "book:1" in line)
    assert serving.run("jobs", "events", job_id).stdout == shown.stdout.replace(f" --base-url {serving.url}", "")


def test_a_text_that_cannot_be_trained_on_fails_the_job(client):
    job = client.train("Too short.\n", name="short")
    with pytest.raises(sostenuto.JobFailed, match=r"at least 1,000 characters are needed"):
        job.wait(PATIENCE_S)
    num_files = len(client.files())
    with pytest.raises(sostenuto.BadRequest, match="units"):
        client.train(TEXT, units=10**6)
    assert len(client.files()) == num_files


def test_openais_client_trains_follows_and_cancels(serving, trained):
    with openai.OpenAI(base_url=f"{serving.url}/v1", api_key="none", max_retries=0) as client:
        jobs, files = client.fine_tuning.jobs, client.files
        file = files.create(file=serving.home / "book.txt", purpose="fine-tune")
        assert (file.filename, file.bytes, file.status) == ("book.txt", len(TEXT), "processed")
        job = jobs.create(
            model="characters-3-minutes",
            training_file=file.id,
            suffix="openai",
            seed=5,
            method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 9, "batch_size": 4}}},
            extra_body={"settings": {"units": 16, "max_minutes": 30}},
        )
        assert (job.status, job.seed, job.training_file) == ("queued", 5, file.id)
        with pytest.raises(openai.ConflictError):
            files.delete(file.id)
        assert files.content(file.id).read() == TEXT.encode()
        jobs.cancel(job.id)
        until(lambda: jobs.retrieve(job.id).status == "cancelled", timeout=PATIENCE_S, interval=0.2)
        assert files.delete(file.id).deleted
        with pytest.raises(openai.NotFoundError):
            files.retrieve(file.id)
        done = jobs.retrieve(trained.id)
        assert (done.status, done.error, done.fine_tuned_model) == ("succeeded", None, "sdk")
        events = list(jobs.list_events(trained.id, limit=2))  # pages of two
        assert [events[-1].message, events[0].message] == ["the job is queued", "published sdk:1"]
        checkpoint = next(iter(jobs.checkpoints.list(trained.id)))
        assert checkpoint.fine_tuned_model_checkpoint == "sdk:1"
        assert checkpoint.metrics.valid_loss > 0
        assert {job.id, trained.id} <= {each.id for each in jobs.list()}


@pytest.mark.slow
@pytest.mark.timeout(1800)  # four trainings, which took nine minutes beside twenty busy processes on two cores
def test_the_commands_and_python_of_the_page_run_as_written(serving, tmp_path, monkeypatch):
    for name in ("curl", "jq"):
        program(name)
    path = tmp_path / "sostenuto"
    path.write_text(f'#!/bin/sh\nexec {sys.executable} -P -m sostenuto "$@"\n')
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'client/src'}:{ROOT}")
    monkeypatch.setenv("SOSTENUTO_BASE_URL", serving.url)
    monkeypatch.chdir(serving.home)
    (page,) = (page for page in PAGES if "purpose=fine-tune" in read(page) and "client.train(" in read(page))
    names = {}
    # `bash` starts a trainer of one's own.
    for block in (block for block in blocks(page) if block.language != "bash"):
        text = block.text.replace("http://127.0.0.1:8000", serving.url)
        text = re.sub(r"(minutes\W+)3\b", r"\g<1>0.05", text)
        if block.language == "python":
            exec(compile(text, block.place, "exec"), names)
        elif block.language == "javascript":
            run_node(text.replace("book.txt", str(serving.home / "book.txt")), timeout=2 * PATIENCE_S)
        else:
            shell = ["bash", "-eu", "-o", "pipefail", "-c", text]
            done = subprocess.run(shell, capture_output=True, text=True, timeout=2 * PATIENCE_S, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
            assert "null" not in done.stdout.splitlines(), done.stdout
    assert done.stdout.endswith("true\n")
    assert (names["job"].status, names["tuned"].fine_tuned_model) == ("succeeded", "letters")


def test_openais_client_for_node_does_the_same(serving, trained):
    """It deletes the model, so this is the last test."""
    program = (ROOT / "tests/e2e/node/training.mjs").read_text()
    settings = {name: value for name, value in SHORT.items() if name != "batch_size"} | {"max_minutes": 30}
    run_node(program, f"{serving.url}/v1", trained.id, json.dumps(settings), timeout=PATIENCE_S, CORPUS=TEXT)
