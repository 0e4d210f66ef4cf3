"""The page about records runs as written: its list, its training, its request and its program, all made short."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.built import built
from tests.documents import PAGES, commands_of
from tests.paths import ROOT
from tests.servers import Gateway, ModelServer
from tests.terminals import environment

COUNT = 1500
# Appended to the page's training command, which then takes seconds; the models' text is poor, but it matches.
SHORT = ["--units=32", "--epochs=1", "--runs-dir=runs", "--models-dir=models"]
(COMMANDS,) = (
    [command.text for command in commands]
    for commands in map(commands_of, PAGES)
    if any(command.text.startswith("sostenuto train names.txt") for command in commands)
)


def entered(text, folder):
    """Run a command of the page in a directory and return its output."""
    text = text.replace(".venv/bin/python", sys.executable).replace("examples/", f"{ROOT}/examples/")
    ended = subprocess.run(
        ["bash", "-eu", "-o", "pipefail", "-c", text],
        cwd=folder,
        env=environment(
            # With the program `sostenuto`.
            PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            PYTHONPATH=f"{ROOT}:{ROOT / 'client/src'}",
            PYTHONWARNINGS="default",
        ),
        capture_output=True,
        timeout=240,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr.decode()
    return ended.stdout.decode()


def train(folder):
    """Write the list of the page, shortened, and train a model on it by the page's command."""
    listing, training, *_ = COMMANDS
    folder.mkdir()
    entered(listing, folder)
    names = (folder / "names.txt").read_text().splitlines(keepends=True)
    (folder / "names.txt").write_text("".join(names[::10]))
    entered(f"{training} {' '.join(SHORT)}", folder)


@pytest.fixture(scope="module")
def trained():
    """A directory with the list and the model, read-only."""
    return built("records", train, inputs=repr(COMMANDS))


@pytest.fixture(scope="module")
def server(trained, tmp_path_factory):
    """A gateway and a model server on that model."""
    logs = tmp_path_factory.mktemp("logs")
    model_server = ModelServer(trained / "models", logs / "model_server.log")
    gateway = Gateway(trained / "models", model_server.port, logs / "gateway.log")
    yield gateway
    gateway.kill()
    model_server.end()


def test_the_request_of_the_page_returns_records_of_its_pattern(server, tmp_path):
    """And how many were rejected."""
    request = COMMANDS[2].replace("http://127.0.0.1:8000", f"http://127.0.0.1:{server.port}")
    *records, num_rejected = entered(request, tmp_path).splitlines()
    (pattern,) = re.findall(r'"regex": "(.*)"\}', request)
    assert len(set(records)) == 5
    assert all(re.fullmatch(pattern, record) for record in records)
    assert int(num_rejected) >= 0


def test_the_program_of_the_page_prints_as_many_distinct_new_records_as_it_is_asked_for(trained, server, tmp_path):
    """All match by Python's `re`, none twice, none of the training text."""
    program = COMMANDS[3].replace("--count 100000", f"--count {COUNT} --url http://127.0.0.1:{server.port}")
    entered(program, tmp_path)
    records = (tmp_path / "records.txt").read_text().splitlines()
    (pattern,) = re.findall('--regex "(.*)" >', program)
    assert len(set(records)) == len(records) == COUNT
    assert all(re.fullmatch(pattern, record) for record in records)
    (card,) = (trained / "models").glob("names/*/assets.extra/generator.json")
    assert json.loads(card.read_text())["training_filter"]["kind"] == "documents"
    names = set((trained / "names.txt").read_text().splitlines())
    # The filter does not know the tenth that is held out for validation.
    assert sum(record in names for record in records) < COUNT * 0.1
