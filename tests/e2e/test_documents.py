"""What the pages have a reader enter runs as it stands there, against the real service."""

import contextlib
import json
import os
import pty
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from itertools import pairwise

import pytest

import ostinato
from tests.conftest import TEXT, made_once
from tests.documents import SHELL, blocks
from tests.programs import program
from tests.servers import ROOT, Gateway, ModelServer
from tests.terminals import environment

PAGES = ["README.md", "client/README.md", "docs/batch.md", "docs/client.md", "docs/command-line.md"]
BLOCKS = [block for page in PAGES for block in blocks(page)]
COMMANDS = [command for block in BLOCKS if block.language in SHELL for command in block.commands()]
ADDRESS = "http://127.0.0.1:8000"
PATIENCE_S = 120
# Every character of the pages' prompts, and more of them than the ids that the pages name.
CORPUS = "".join(map(chr, range(32, 127))) + TEXT * 20
# Behind a training of the README, which takes seconds then.
SHORT = " --units 16 --epochs 1 --streams 4 --validation 0.3 --runs-dir ../runs --models-dir ../trained"

# What does not run here, by its beginning, and why.
NOT_RUN = {
    "make run": "trains for three minutes, and serves until Ctrl-C",
    "make test": "is what runs this",
    "docker compose up": "needs Docker; tests/compose has it",
    "pip install ": "would change the tests' own environment",
    ".venv/bin/pip install ": "would change the tests' own environment",
    ".venv/bin/python -m export train ": "takes minutes; `made` runs two, made short",
    "cat *.txt | .venv/bin/python -m export train ": "takes minutes",
    "OSTINATO_KEYS_FILE=keys.json OSTINATO_HOST=0.0.0.0 make run": "opens a port to the network",
    'curl -H "Authorization: Bearer ost-…" http://server:8000/': "another machine, and a key that is left out",
    ".venv/bin/python -m model_server --host=10.0.0.1 ": "another machine's address",
    "OSTINATO_BACKENDS=10.0.0.1:8500,10.0.0.2:8500 ": "other machines' addresses",
    ".venv/bin/python -m service.batch in.jsonl out.jsonl --ray": "a cluster; test_batch.py has one",
}
# Takes no piped line, but asks the person at the terminal.
ASKS = ".venv/bin/python -m export remove "
# What a reader types into a program, where the page does not show it.
TYPED = {"ostinato write --file story.json": "Once upon a time\n\n", ASKS: "y\n"}


def of(table, command):
    """Return what a table has for the beginning of a command; None: nothing."""
    return next((value for beginning, value in table.items() if command.text.startswith(beginning)), None)


def is_run(command):
    """Whether a command runs here."""
    return of(NOT_RUN, command) is None


def it_is_thirty_bytes(_folder, output, _client):
    """What `head` let through."""
    assert len(output) == 30


def halves_are_a_whole(folder, _output, client):
    """`story.txt` is what 100 tokens at once are."""
    seed = client.resume((folder / "story.state").read_text().strip(), max_tokens=1).seed
    whole = client.generate("The ", max_tokens=100, seed=seed)
    assert (folder / "story.txt").read_bytes().decode() == whole.text


def it_is_a_number(_folder, output, _client):
    """What `jq` found in the answer."""
    assert int(output) > 0


def there_are_two_texts(folder, _output, client):
    """The main one was taken back to its beginning; the branch beside it has what was typed."""
    assert client.load_conversation(folder / "story.json").text == "Once upon a time"
    assert client.load_conversation(folder / "story.other.json").text.startswith("Once upon a time there was a dog")


def every_line_is_answered(folder, _output, _client):
    """With success, under the id that the page's line has."""
    answers = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
    assert [(answer["custom_id"], answer["response"]["status_code"]) for answer in answers] == [("a", 200)]


def it_is_gone(folder, _output, _client):
    """Its folder, too."""
    assert not (folder / "models/book/1").exists()


def stable_is_what_it_was(_folder, output, _client):
    """Version 3, the newest, had answered before version 2 was promoted."""
    assert output == b"stable of demo is version 3 now, was 2\n"


# What the pages say of a command, by its beginning: asked of the folder, of what was printed, and of the service.
CLAIMS = {
    'ostinato generate "The " --max-tokens 90000 | head -c 30': it_is_thirty_bytes,
    "ostinato generate --state story.state ": halves_are_a_whole,
    'ostinato generate "The " --json | jq .usage': it_is_a_number,
    'ostinato write "Once upon a time" --file story.json ': there_are_two_texts,
    ".venv/bin/python -m service.batch in.jsonl out.jsonl": every_line_is_answered,
    ".venv/bin/python -m export remove book:1": it_is_gone,
    ".venv/bin/python -m export rollback demo": stable_is_what_it_was,
}


@pytest.fixture(scope="module")
def surroundings(tmp_path_factory):
    """The environment of a shell that finds `ostinato`, and a curl that fails when it is answered an error."""
    for name in ("curl", "jq"):
        program(name)
    folder = tmp_path_factory.mktemp("programs")
    _write_program(folder / "ostinato", "-m ostinato")
    (folder / ".curlrc").write_text("fail-with-body\nsilent\n")
    return environment(
        PATH=f"{folder}:{os.environ['PATH']}",
        CURL_HOME=str(folder),
        PYTHONPATH=f"{ROOT}:{ROOT / 'client/src'}",
        PYTHONWARNINGS="default",
    )


def _write_program(path, arguments=""):
    path.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {arguments} "$@"\n')
    path.chmod(0o755)


def enter(text, folder, surroundings, typed="", *, asks=False):
    """Run what is entered by bash in a folder; return its exit code, its output and its errors."""
    with contextlib.ExitStack() as stack:
        if asks:
            mine, theirs = pty.openpty()
            os.write(mine, typed.encode())
            stack.callback(os.close, mine)
            stack.callback(os.close, theirs)
        else:
            theirs = stack.enter_context((folder / ".typed").open("w+"))
            theirs.write(typed)
            theirs.seek(0)
        running = subprocess.Popen(
            ["bash", "-e", "-o", "pipefail", "-c", text],
            cwd=folder,
            env=surroundings,
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            output, errors = running.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            os.killpg(running.pid, signal.SIGKILL)
            running.communicate()
            raise
    return running.returncode, output, errors.decode()


@pytest.fixture(scope="module")
def made(tmp_path_factory, surroundings):
    """`reader`, a folder with the files that the pages name, and `served`, a repository with `demo` and `reverse`."""

    def make(folder):
        reader, served = folder / "reader", folder / "served"
        (reader / ".venv/bin").mkdir(parents=True)
        _write_program(reader / ".venv/bin/python")
        for name in ("book.txt", "page.txt"):
            (reader / name).write_text(CORPUS)
        (requests,) = (block.text for block in blocks("docs/batch.md") if block.language == "json")
        (reader / "in.jsonl").write_text(requests)
        for name in ("book", "ending"):
            (training,) = (
                command.text for command in COMMANDS if f"train --corpus book.txt --name {name} " in command.text
            )
            code, _, errors = enter(training + SHORT, reader, surroundings)
            assert code == 0, errors
        book, ending = folder / "trained/book/1", folder / "trained/ending/1"
        _copy_version(book, reader / "models", "book", 1)
        _copy_version(book, reader / "models", "demo", 1)
        _copy_version(book, served, "demo", 1)
        _copy_version(ending, served, "reverse", 1)
        _save_lesson(reader)

    return made_once(tmp_path_factory, "documents", make)


def _copy_version(version, models_dir, name, number):
    from export.repository.models_config import add_to_models_config

    shutil.copytree(version, models_dir / name / str(number))
    add_to_models_config(models_dir, name)


def _save_lesson(folder):
    """Save a model and its tokenizer as Keras 2 does."""
    import tf_keras
    from keras.src.legacy.preprocessing.text import Tokenizer

    tokenizer = Tokenizer()
    tokenizer.fit_on_texts([TEXT])
    (folder / "tokenizer.json").write_text(tokenizer.to_json())
    layers, size = tf_keras.layers, len(tokenizer.word_index) + 1
    parts = [layers.Embedding(size, 8), layers.LSTM(8, return_sequences=True), layers.Dense(size, activation="softmax")]
    model = tf_keras.Sequential([layers.InputLayer([None]), *parts])
    with pytest.warns(UserWarning, match="legacy"):
        model.save(folder / "lesson.h5")


@pytest.fixture(scope="module")
def address(made, tmp_path_factory):
    """Where a gateway with its default settings serves `demo` and `reverse`."""
    logs = tmp_path_factory.mktemp("logs")
    with contextlib.ExitStack() as stack:
        server = ModelServer(made / "served", logs / "model_server.log")
        stack.callback(server.end)
        gateway = Gateway(made / "served", server.port, logs / "gateway.log")
        stack.callback(gateway.end)
        yield f"http://127.0.0.1:{gateway.port}"


@pytest.fixture
def folder(made, tmp_path):
    """A folder of the test's own with the files that the pages name."""
    return shutil.copytree(made / "reader", tmp_path / "reader")


@pytest.mark.parametrize("page", [page for page in PAGES if any(block.language == "python" for block in blocks(page))])
def test_the_snippets_of_a_page_run(page, address, monkeypatch, tmp_path):
    """In order, as a reader would run them, but for the address; the README's notebook has a model and a text."""
    monkeypatch.chdir(tmp_path)
    snippets = [block.text for block in blocks(page) if block.language == "python"]
    names = {"model": _model_of(TEXT), "text": TEXT} if "export.publish(model, " in "".join(snippets) else {}
    for snippet in snippets:
        exec(snippet.replace(ADDRESS, address), names)
    assert "model" not in names or (tmp_path / "models/mine/1/saved_model.pb").exists()


def _model_of(text):
    import keras

    from contract.tokenizer import CharacterTokenizer

    layers, size = keras.layers, len(CharacterTokenizer.train(text).tokens)
    parts = [layers.Embedding(size, 8), layers.LSTM(8, return_sequences=True), layers.Dense(size)]
    return keras.Sequential([layers.Input([None], dtype="int32"), *parts])


@pytest.mark.parametrize(
    "block",
    [block for block in BLOCKS if block.language in SHELL and any(map(is_run, block.commands()))],
    ids=lambda block: block.place,
)
def test_the_commands_of_a_block_run(block, address, folder, surroundings):
    """One after another in a folder with the files that they name, and what the page says of them is so."""
    for number in {*re.findall(r"demo:(\d+)", block.text)} - {"1"}:
        _copy_version(folder / "models/demo/1", folder / "models", "demo", int(number))
    with ostinato.Client(address) as client:
        for command in filter(is_run, block.commands()):
            text, typed = command.text.replace(ADDRESS, address), command.typed or of(TYPED, command) or ""
            asks = command.text.startswith(ASKS)
            variables = {**surroundings, "OSTINATO_BASE_URL": address}
            code, output, errors = enter(text, folder, variables, typed, asks=asks)
            # 141 where whoever read the output is gone, as docs/command-line.md says.
            assert code in ((0, 141) if "| head" in text else (0,)), f"{text}\n{code}: {output.decode()}{errors}"
            if claim := of(CLAIMS, command):
                claim(folder, output, client)


def test_every_field_of_a_body_is_known():
    """The service passes over a field that it does not know, so that a slip would not show."""
    from service.api.bodies import CompletionBody

    entered = [pairwise(shlex.split(command.text)) for command in COMMANDS]
    bodies = [json.loads(word) for words in entered for flag, word in words if flag == "-d"]
    bodies += [json.loads(block.text)["body"] for block in BLOCKS if block.language == "json"]
    assert {name for body in bodies for name in body} <= CompletionBody.model_fields.keys()


@pytest.mark.parametrize(
    "text", [command.text for command in COMMANDS if not is_run(command) and "OSTINATO_" in command.text]
)
def test_variables_of_what_is_not_run_are_settings(text):
    """Each is read by the gateway."""
    from service.settings import Settings

    names = re.findall(r"OSTINATO_(\w+)=", text)
    assert {name.lower() for name in names} <= Settings.model_fields.keys()


@pytest.mark.parametrize(
    "text", [command.text for command in COMMANDS if not is_run(command) and " -m " in command.text]
)
def test_what_is_not_run_is_understood(text, monkeypatch):
    """The program's own parser takes the options, and the settings of a training fit together."""
    from export.cli import build_parser
    from export.config import TrainConfig, load_config
    from model_server.flags import parse
    from service.__main__ import _parser
    from service.batch.__main__ import _options

    def export(arguments):
        options = vars(build_parser().parse_args(arguments))
        load_config(options["config"], {name: options[name] for name in TrainConfig.model_fields if name in options})

    monkeypatch.chdir(ROOT)
    parsers = {"export": export, "model_server": parse, "service": _parser().parse_args, "service.batch": _options}
    words = shlex.split(text, comments=True)
    module = words.index("-m") + 1
    parsers[words[module]](words[module + 1 :])


@pytest.mark.parametrize("text", sorted({command.text for command in COMMANDS if " install " in f"{command.text} "}))
def test_what_is_installed_is_there(text):
    """The folder or the file of requirements."""
    *_, place = shlex.split(text)
    name, _, extra = place.rstrip("]").partition("[")
    assert (ROOT / name).exists()
    project = tomllib.loads((ROOT / name / "pyproject.toml").read_text()) if extra else {}
    assert not extra or extra in project["project"]["optional-dependencies"]


def test_the_shares_of_the_readme_are_read(tmp_path):
    """As a gateway reads them."""
    from service.servers.routing import read_shares

    (shares,) = (block.text for block in blocks("README.md") if block.language == "toml")
    (tmp_path / "routing.toml").write_text(shares)
    assert read_shares(tmp_path / "routing.toml") == {"demo": {"stable": 90, "canary": 10}}


@pytest.mark.parametrize("table", [NOT_RUN, TYPED, CLAIMS], ids=["NOT_RUN", "TYPED", "CLAIMS"])
def test_every_entry_is_about_a_command(table):
    """What no page has any more is taken out of the tables."""
    assert [entry for entry in table if not any(command.text.startswith(entry) for command in COMMANDS)] == []


def test_a_block_is_for_the_shell_or_says_what_else_it_is():
    """So none is passed over: a language that nothing here runs is no commands."""
    assert {block.language for block in BLOCKS} <= {*SHELL, "python", "json", "toml", "text"}
