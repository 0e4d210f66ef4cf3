"""Commands and Python of the documentation run as written, against the real service."""

import contextlib
import csv
import functools
import importlib.util
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
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import click
import pytest
from pydantic import ValidationError

import sostenuto
from tests.built import built
from tests.conftest import TEXT, quick_to_load
from tests.documents import PAGES, SHELL, blocks, commands_of, documents, fits, spans
from tests.paths import ROOT
from tests.programs import program, write_entry_points
from tests.servers import Gateway, ModelServer
from tests.terminals import environment

# Pages with such a command are not tried here.
NOT_TRIED = (
    "docker compose down",  # needs Docker; tests/compose covers a part
    "kubectl create ",  # needs a cluster; tests/kubernetes has one
    "scripts/build-tensorflow-serving ",  # needs a clone of TensorFlow Serving
    "npm install ",  # gigabytes of other clients' packages
    "sostenuto train names.txt ",  # trains a model of its own; test_records.py runs the page
)


PAGES = [page for page in PAGES if not any(command.text.startswith(NOT_TRIED) for command in commands_of(page))]
BLOCKS = [block for page in PAGES for block in blocks(page)]
COMMANDS = [command for page in PAGES for command in commands_of(page)]
# Lines of batch files.
REQUEST_LINES = [block for block in BLOCKS if block.language == "json" and '"custom_id": ' in block.text]
ADDRESS = "http://127.0.0.1:8000"
PATIENCE_S = 120
# Every character of the pages' prompts, and a vocabulary larger than the token ids that the pages use.
CORPUS = "".join(map(chr, range(32, 127))) + TEXT * 20
# Appended to a training command of the pages, which then takes seconds.
SHORT = ["--units=16", "--epochs=1", "--batch-size=4", "--validation=0.3", "--runs-dir=runs", "--models-dir=trained"]
# The pages' training commands of the models in use: `book` and `demo`, which carry state, and `reverse`.
TRAININGS = ("sostenuto train book.txt --units 256 ", "sostenuto train book.txt --name ending ")
# Id of the key that a page revokes.
KEY_ID = "82qz9i5j"

# Commands that are not run, by their beginning, and the reason.
NOT_RUN = {
    "make test": "is what runs this",
    "docker compose up": "needs Docker; tests/compose has it",
    "docker run ": "needs Docker, and an image that could not be had",
    "docker ": "needs Docker",
    "pip install ": "would change the tests' own environment",
    "pip wheel ": "downloads 650 MB",
    "PIP_NO_INDEX=1 PIP_FIND_LINKS=$PWD/wheelhouse make run": "installs 2 GB, and serves until Ctrl-C",
    "sostenuto train ": "takes minutes; `made` runs two, made short",
    "sostenuto serve": "serves until Ctrl-C",
    "sostenuto demo": "trains for three minutes, and serves until Ctrl-C",
    "cat *.txt | sostenuto train ": "takes minutes",
    "sostenuto resume ": "takes the minutes that are left of a training run",
    "sostenuto import lesson.h5 ": "takes half a minute; a .keras file is imported, from another page",
    ".venv/bin/python -m benchmarks.": "takes minutes, and must be alone",
    "SOSTENUTO_KEYS_FILE=keys.json SOSTENUTO_HOST=0.0.0.0 make run": "opens a port to the network",
    "SOSTENUTO_PORTABLE=true make run": "serves until Ctrl-C",
    ".venv/bin/python -m model_server --host=10.0.0.1 ": "another machine's address",
    "SOSTENUTO_STATE_KEY_FILE=.sostenuto-state-key sostenuto serve ": "other machines' addresses",
    "sostenuto batch in.jsonl out.jsonl --ray": "a cluster; test_batch.py has one",
}
# Asks for confirmation at a terminal; it reads no pipe.
ASKS = "sostenuto remove "
# Input that a reader types into a program, where the page does not show it.
TYPED = {"sostenuto write --file story.json": "Once upon a time\n\n", ASKS: "y\n"}


def of(table, command):
    """Return a table's entry for the beginning of a command; None if there is none."""
    return next((value for beginning, value in table.items() if command.text.startswith(beginning)), None)


def is_run(command):
    """Return whether the command runs here."""
    return of(NOT_RUN, command) is None


@dataclass(frozen=True)
class Session:
    """A page's commands, run in order, up to one whose claim is checked.

    Attributes:
        folder: Working directory.
        outputs: Output of each command, as text.
        shown: Output that the page shows for the last command's block; "" for none.
        client: Client of the service that the commands use.
    """

    folder: Path
    outputs: list[str]
    shown: str
    client: sostenuto.Client

    @property
    def output(self):
        """Output of the last command."""
        return self.outputs[-1]


def it_is_thirty_bytes(session):
    """Check that `head` printed 30 bytes."""
    assert len(session.output.encode(errors="surrogateescape")) == 30


def halves_are_a_whole(session):
    """Check that `story.txt` equals 100 tokens generated at once."""
    seed = session.client.resume((session.folder / "story.state").read_text().strip(), max_tokens=1).seed
    whole = session.client.generate("HAMLET.\n", max_tokens=100, seed=seed)
    assert (session.folder / "story.txt").read_bytes().decode() == whole.text


def it_is_the_pieces_before_it(session):
    """Check that the output joins the texts of the two commands before it, without the line breaks that `jq` adds."""
    *_, first, second, whole = (output.removesuffix("\n") for output in session.outputs)
    assert first + second == whole


def it_is_generated_again(session):
    """Check that the seed of the first response reproduces its text."""
    first, again = (json.loads((session.folder / name).read_text()) for name in ("first.json", "again.json"))
    assert first["choices"][0]["text"] == again["choices"][0]["text"]


def it_is_a_number(session):
    """Check that `jq` found a positive number in the response."""
    assert int(session.output) > 0


def it_is_known_up_to_the_last_word(session):
    """Check that the whole prompt of the earlier request was a prefix cache hit."""
    assert json.loads(session.output)["prompt_tokens_details"] == {"cached_tokens": 26}


def the_text_so_far_is_in_the_error(session):
    """Check that a deadline's error has the text so far and its resume token."""
    code, num_tokens, size = documents(session.output)
    assert code == "deadline_exceeded"
    assert min(num_tokens, size) > 0


def it_is_refused_as_shown(session):
    """Check that the error's fields, except its message, equal those of an error that the page shows."""
    shown = [_reason(answer) for answer in documents(session.shown)]
    assert _reason(json.loads(session.output)) in shown


def _reason(answer):
    return {name: value for name, value in answer["error"].items() if name != "message"}


def there_are_two_texts(session):
    """Check that the main text is undone to its beginning, and that the branch has what was typed."""
    load, folder = session.client.load_conversation, session.folder
    assert load(folder / "scene.json").text == "ROMEO.\n"
    assert [turn.prompt for turn in load(folder / "scene.juliet.json").turns] == ["", "\n\nJULIET.\n"]


def every_line_is_answered(session):
    """Check that each line of the page's batch file succeeded, under its id."""
    answers = [json.loads(line) for line in (session.folder / "out.jsonl").read_text().splitlines()]
    assert [(answer["custom_id"], answer["response"]["status_code"]) for answer in answers] == [("a", 200)]


def every_choice_is_a_record(session):
    """Check that the dataset has the same request, and that there is no errors file."""
    with (session.folder / "out.csv").open(newline="") as file:
        records = list(csv.DictReader(file))
    assert [(record["custom_id"], record["index"], len(record["text"])) for record in records] == [("a", "0", 50)]
    assert not (session.folder / "out.csv.errors.jsonl").exists()


def it_is_gone(session):
    """Check that the version's directory is gone."""
    assert not (session.folder / "models/book/1").exists()


def it_is_plotted(session):
    """Check that the plot is a PNG file."""
    assert (session.folder / "compare.png").read_bytes().startswith(b"\x89PNG")


def it_is_among_what_is_shown(session):
    """Check that the page shows the output's lines, in their order."""
    assert session.output
    assert session.output in session.shown


def it_can_be_trained_on(session):
    """Check that the corpus is UTF-8 and large enough."""
    assert len((session.folder / "book.txt").read_text(encoding="utf-8")) > 100_000


def it_is_revoked(session):
    """Check that the key is revoked, and that the other one remains."""
    keys = json.loads((session.folder / "keys.json").read_text())["keys"]
    assert [(key["tenant"], key["id"] == KEY_ID) for key in keys] == [("alice", False)]


_HTTP = f"curl -s {ADDRESS}"
# Checks of what the pages say of a command, by the command's beginning.
CLAIMS = {
    r"sostenuto generate $'HAMLET.\n' --max-tokens 90000 | head -c 30": it_is_thirty_bytes,
    "sostenuto generate --state story.state ": halves_are_a_whole,
    r"sostenuto generate $'HAMLET.\n' --json | jq .usage": it_is_a_number,
    r"sostenuto write $'ROMEO.\n' --file scene.json ": there_are_two_texts,
    "sostenuto batch in.jsonl out.jsonl": every_line_is_answered,
    "sostenuto batch in.jsonl out.csv --format csv": every_choice_is_a_record,
    "sostenuto keys revoke ": it_is_revoked,
    "sostenuto remove book:1": it_is_gone,
    "sostenuto compare book demo --plot compare.png": it_is_plotted,
    "sostenuto promote book:": it_is_among_what_is_shown,
    "sostenuto rollback book": it_is_among_what_is_shown,
    "sostenuto import lesson.keras ": it_is_among_what_is_shown,
    "cat /usr/share/common-licenses/* > book.txt": it_can_be_trained_on,
    "jq -r '.choices[0].text' first.json again.json": it_is_generated_again,
    f"""{_HTTP}/v1/completions -d '{{"model": "demo",\n  "prompt": "HAMLET.\\n", "max_tokens": 100, "seed": 7}}'""": (
        it_is_the_pieces_before_it
    ),
    f"""{_HTTP}/v1/completions -d '{{"model": "demo",\n  "prompt": "BOTTOM.\\nI have had a dream past",""": (
        it_is_known_up_to_the_last_word
    ),
}
# Requests that a page shows being rejected, by their beginning.
REFUSED = {
    f"""{_HTTP}/v1/completions -d '{{"model": "demo", "temperature": 3}}'""": it_is_refused_as_shown,
    f"""{_HTTP}/v1/completions -d '{{"model": "nosuch"}}'""": it_is_refused_as_shown,
    f"""{_HTTP}/v1/completions -d '{{"model": "demo",\n  "prompt": "HAMLET.\\n", "max_tokens": 90000, """: (
        the_text_so_far_is_in_the_error
    ),
}


@pytest.fixture(scope="module")
def surroundings(tmp_path_factory):
    """The environment of a shell with `sostenuto` on its path, and a curl that fails on error responses."""
    for name in ("curl", "jq"):
        program(name)
    folder = tmp_path_factory.mktemp("programs")
    _write_program(folder / "sostenuto", "-m sostenuto")
    write_entry_points(folder)
    (folder / ".curlrc").write_text("fail-with-body\nsilent\n")
    return environment(
        PATH=f"{folder}:{os.environ['PATH']}",
        CURL_HOME=str(folder),
        PYTHONPATH=f"{folder}:{ROOT}:{ROOT / 'client/src'}",
        PYTHONWARNINGS="default",
    )


def _write_program(path, arguments=""):
    path.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {arguments} "$@"\n')
    path.chmod(0o755)


def enter(text, folder, surroundings, typed="", *, asks=False):
    """Run a command with bash in a directory; return its exit code, its output and its errors."""
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
            ["bash", "-eu", "-o", "pipefail", "-c", text],
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
def made(tmp_path_factory):
    """A directory with `reader`, the files that the pages name, and `served`, a repository with the models they use."""
    folder = tmp_path_factory.mktemp("documents")
    reader, served = folder / "reader", folder / "served"
    (reader / ".venv/bin").mkdir(parents=True)
    _write_program(reader / ".venv/bin/python")
    _write_corpora(reader)
    (reader / "in.jsonl").write_text("".join(block.text for block in REQUEST_LINES))
    _make_key(reader / "keys.json")
    (reader / "runs").mkdir()
    (reader / ".sostenuto-state-key").write_text("0" * 64)
    trained = _trained_by_the_pages()
    book, ending = trained / "book/1", trained / "ending/1"
    for name in ("book", "demo"):
        _copy_version(book, reader / "models", name, 1)
        _copy_version(book, served, name, 1)
    _copy_version(ending, served, "reverse", 1)
    return folder


def _write_corpora(folder):
    for name in ("book.txt", "page.txt"):
        (folder / name).write_text(CORPUS)


def _trained_by_the_pages():
    """Return the model repository that the pages' training commands fill."""
    trainings = [command.text for command in COMMANDS if command.text.startswith(TRAININGS)]

    def train(folder):
        """Train in this process, which has already imported TensorFlow."""
        from tests.commands import main

        folder.mkdir(parents=True)
        _write_corpora(folder)
        with contextlib.chdir(folder), quick_to_load():
            for training in trainings:
                _, *arguments = shlex.split(training, comments=True)
                assert main(arguments + SHORT) == 0

    return built("documents", train, "".join(trainings)) / "trained"


def _make_key(path):
    """Write a key file with one key, whose id is the one in the pages."""
    from service.access.keys import KeyLimits, add_key

    key, _ = add_key(path, "bob", None, KeyLimits())
    path.write_text(path.read_text().replace(key.id, KEY_ID))


def _copy_version(version, models_dir, name, number):
    from export.repository.models_config import add_to_models_config

    shutil.copytree(version, models_dir / name / str(number))
    add_to_models_config(models_dir, name)


@pytest.fixture(scope="module")
def address(made, tmp_path_factory):
    """The URL of a gateway with default settings that serves `book`, `demo` and `reverse`."""
    logs = tmp_path_factory.mktemp("logs")
    with contextlib.ExitStack() as stack:
        server = ModelServer(made / "served", logs / "model_server.log")
        stack.callback(server.end)
        gateway = Gateway(made / "served", server.port, logs / "gateway.log")
        stack.callback(gateway.end)
        yield f"http://127.0.0.1:{gateway.port}"


@pytest.fixture
def folder(made, tmp_path):
    """A copy of the directory with the pages' files, for one test."""
    return shutil.copytree(made / "reader", tmp_path / "reader")


def is_entered(block):
    """Return whether something of a block runs here."""
    return block.language == "python" or (block.language in SHELL and any(map(is_run, block.commands())))


# `make test-all` runs all other pages than those that a newcomer enters first.
PAGES_WITH_COMMANDS = [
    pytest.param(page, marks=[] if "README" in page or "quickstart" in page else pytest.mark.slow)
    for page in PAGES
    if any(map(is_entered, blocks(page)))
]


@pytest.mark.parametrize("page", PAGES_WITH_COMMANDS)
def test_the_commands_and_python_of_a_page_run_as_written(page, address, folder, surroundings, monkeypatch):
    """They run in order, with only the URL replaced; output and claims of the page are checked."""
    monkeypatch.chdir(folder)
    for name, number in re.findall(r"(book|demo):(\d+)", "".join(block.text for block in blocks(page))):
        if not (folder / "models" / name / number).exists():
            _copy_version(folder / "models" / name / "1", folder / "models", name, int(number))
    names, outputs, variables = {}, [], {**surroundings, "SOSTENUTO_BASE_URL": address}
    with sostenuto.Client(address) as client:
        for block in filter(is_entered, blocks(page)):
            if block.language == "python":
                exec(compile(block.text.replace(ADDRESS, address), block.place, "exec"), names)
            else:
                shown = block.output.text if block.output else ""
                session = Session(folder, outputs, shown, client)
                printed = [_run(command, session, address, variables) for command in filter(is_run, block.commands())]
                _compare(block, "".join(printed))
    assert "export" not in names or (folder / "models/mine/1/saved_model.pb").exists()


def _run(command, session, address, variables):
    """Run a command after those before it, check the page's claim of it, and return its output."""
    text, typed = command.text.replace(ADDRESS, address), command.typed or of(TYPED, command) or ""
    # Later commands find the shell variables that this one assigns.
    kept = f"\ndeclare -p {command.assigned} >> .variables" if command.assigned else ""
    (session.folder / ".variables").touch()
    asks = command.text.startswith(ASKS)
    code, output, errors = enter(f". ./.variables\n{text}{kept}", session.folder, variables, typed, asks=asks)
    refused = of(REFUSED, command)
    # 141 after a closed pipe; 22 is curl's, for an error response.
    expected = (22,) if refused else (0, 141) if "| head" in text else (0,)
    # Output that is cut off by bytes may end within a character.
    output = output.decode(errors="surrogateescape")
    assert code in expected, f"{text}\n{code}: {output}{errors}"
    assert "null" not in output.splitlines(), f"{text}\nfinds nothing in the answer: {output}"
    session.outputs.append(output)
    if claim := refused or of(CLAIMS, command):
        claim(session)
    return output


def _compare(block, printed):
    """Check that printed JSON documents and those that the page shows have the same fields."""
    if block.output and block.output.language == "json":
        # The pages' `demo` has an EOS token; the one here has none.
        text = block.output.text.replace('"eos_token":"<end>"', '"eos_token":null')
        got, shown = documents(printed), documents(text)
        assert [one for one in got if not any(fits(one, other) for other in shown)] == [], block.output.place
        assert [one for one in shown if not any(fits(other, one) for other in got)] == [], block.output.place


def requests():
    """Return method, path and body of each request that the pages send; the body is None where it is not known."""
    found = []
    for command in COMMANDS:
        words = shlex.split(command.text)
        posted = [body for flag, body in pairwise(words) if flag == "-d"]
        for url in (word for word in words if word.startswith(ADDRESS)):
            # 0 replaces shell variables; a body from a pipe (`@-`) is generated by a program, so it is not known here.
            bodies = [json.loads(re.sub(r"\$\w+", "0", body)) for body in posted if not body.startswith("@")]
            found.append(("post" if posted else "get", url.removeprefix(ADDRESS), *(bodies or [None])))
    lines = [json.loads(block.text) for block in REQUEST_LINES]
    return found + [(line["method"].lower(), line["url"], line["body"]) for line in lines]


def unknown_fields(kind, body):
    """Return the fields that a body has and its model has not, at any depth; other errors are left to the service."""
    try:
        kind.model_validate(body)
    except ValidationError as error:
        return [problem["ctx"]["name"] for problem in error.errors() if problem["type"] == "unknown_field"]
    return []


def test_every_request_field_in_the_pages_exists_in_the_api():
    """Commands that no test runs included; the service ignores unknown parameters of a query."""
    from service.web.routes import ENDPOINTS

    for method, url, body in requests():
        path, query = urlsplit(url).path, parse_qs(urlsplit(url).query)
        (endpoint,) = (
            endpoint
            for endpoint in ENDPOINTS
            if endpoint.method == method and re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", endpoint.path), path)
        )
        assert query.keys() <= {parameter.name for parameter in endpoint.query}, url
        assert body is None or unknown_fields(endpoint.request, body) == [], url


def not_run(part):
    """Return each command once that does not run here and contains `part`."""
    return sorted({command.text for command in COMMANDS if not is_run(command) and part in command.text})


@pytest.mark.parametrize("text", not_run("SOSTENUTO_"))
def test_environment_variables_of_commands_not_run_are_settings(text):
    """Each is a setting of the gateway."""
    from service.settings import Settings

    names = re.findall(r"SOSTENUTO_(\w+)=", text)
    assert {name.lower() for name in names} <= Settings.model_fields.keys()


@pytest.mark.parametrize("text", not_run("make "))
def test_make_targets_of_commands_not_run_exist(text, tmp_path, surroundings):
    """`make --dry-run` succeeds."""
    asked = text.replace("make ", f"make --directory={ROOT} --dry-run ", 1)
    code, output, errors = enter(asked, tmp_path, surroundings)
    assert (code, bool(output)) == (0, True), errors


PARSED = sorted({line for text in not_run("sostenuto ") for line in text.splitlines() if "sostenuto " in line})


@pytest.mark.parametrize("text", PARSED)
def test_commands_not_run_parse(text):
    """The options are the command's, and the settings of a training run are consistent."""
    from export.cli import program as exporter
    from export.config import TrainConfig, load_config, recipe_path
    from service import cli as service
    from sostenuto._cli.program import program as client

    words = shlex.split(text, comments=True)
    name, *arguments = words[words.index("sostenuto") + 1 :]
    commands = {**client.commands, **exporter.commands, "serve": service.serve, "demo": service.demo}
    options = commands[name].make_context(name, arguments).params
    if name == "train":
        settings = {key: options[key] for key in TrainConfig.model_fields if options[key] is not None}
        load_config(recipe_path(options["config"]), settings)


@pytest.mark.parametrize("text", not_run(" -m "))
def test_module_commands_not_run_parse(text, monkeypatch):
    """The program's own parser accepts the options."""
    from model_server.flags import parse
    from service.cli import program

    monkeypatch.chdir(ROOT)
    parsers = {"model_server": parse, "service": lambda words: parse_click(program, words)}
    words = shlex.split(text, comments=True)
    module, *arguments = words[words.index("-m") + 1 :]
    if module in parsers:
        parsers[module](arguments)
    else:
        assert (is_module(module), arguments) == (True, [])


def parse_click(command, arguments):
    """Parse the arguments of a command and of its subcommand; an invalid one raises click's error."""
    context = command.make_context(command.name, list(arguments))
    while isinstance(command, click.Group):
        name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        context = command.make_context(name, rest, parent=context)


def is_module(name):
    """Return whether a module or package of this name exists."""
    return importlib.util.find_spec(name) is not None


# With `--no-index` they name a distribution.
INSTALLS = {text for command in COMMANDS if " install " in (text := f"{command.text} ") and "--no-index" not in text}


@pytest.mark.parametrize("text", sorted(INSTALLS))
def test_install_commands_name_existing_files_and_extras(text):
    """The argument is a distribution, a directory or a requirements file of the repository, perhaps with an extra."""
    *_, place = shlex.split(text)
    name, _, extra = place.rstrip("]").partition("[")
    name = {"sostenuto": "client", "sostenuto-server": "."}.get(name, name)
    assert (ROOT / name).exists()
    project = tomllib.loads((ROOT / name / "pyproject.toml").read_text()) if extra else {}
    assert not extra or extra in project["project"]["optional-dependencies"]


@pytest.mark.parametrize("page", PAGES)
def test_make_targets_modules_and_options_in_prose_exist(page):
    """Checks the code spans of sentences and tables, which no test runs."""
    made = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    code = spans(page)
    targets = {target for span in code for target in re.findall(r"^(?:[A-Z]+=\S+ )?make ([a-z-]+)", span)}
    modules = {module for span in code for module in re.findall(r"-m ([a-z_.]+)", span)}
    assert targets <= made
    assert [module for module in modules if not is_module(module)] == []
    # argparse accepts abbreviated options until they become ambiguous, so running a command does not find them.
    code += [block.text for block in blocks(page) if block.language in SHELL and ".venv/bin/python -m " in block.text]
    assert {option for span in code for option in re.findall(r"(?<![\w-])--[a-z][\w-]*", span)} <= options()


@functools.cache
def options():
    """Return every option of the programs that the pages name."""
    from export.cli import program as exporter
    from model_server.flags import _parser as build_flags
    from service.cli import keys

    context = click.Context(keys)
    # Options generated from settings and flags are known only to the parsers; the others are literals in the sources.
    made = {option for action in build_flags()._actions for option in action.option_strings}
    commands = [*exporter.commands.values(), *(keys.get_command(context, name) for name in keys.list_commands(context))]
    parameters = [parameter for command in commands for parameter in command.params]
    made |= {option for parameter in parameters for option in [*parameter.opts, *parameter.secondary_opts]}
    sources = [path for part in ("benchmarks", "client/src", "service") for path in (ROOT / part).rglob("*.py")]
    sources.append(ROOT / "tests/conftest.py")
    written = {option for path in sources for option in re.findall(r'["/](--[a-z][\w-]*)', path.read_text())}
    others = {
        "--profile",
        "--previous",
        "--parallel",
        "--max-num-seqs",
        "--require-hashes",
    }  # docker compose's, kubectl's, llama.cpp's, vLLM's, pip's
    return made | written | others


def test_the_traffic_split_of_the_pages_parses(tmp_path):
    """By the gateway's own parser of routing.toml."""
    from service.models.routing import read_shares

    (shares,) = (block.text for block in BLOCKS if block.language == "toml")
    (tmp_path / "routing.toml").write_text(shares)
    assert read_shares(tmp_path / "routing.toml") == {"book": {"stable": 90, "canary": 10}}


TABLES = {"NOT_RUN": NOT_RUN, "TYPED": TYPED, "CLAIMS": CLAIMS, "REFUSED": REFUSED}


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_every_table_entry_matches_a_command(table):
    """Entries of commands that the pages no longer have must be deleted."""
    assert [entry for entry in table if not any(command.text.startswith(entry) for command in COMMANDS)] == []


def test_every_code_block_has_a_known_language():
    """A block in any other language would be skipped unnoticed; JSON blocks must parse."""
    assert {block.language for block in BLOCKS} <= {*SHELL, "python", "json", "toml", "text"}
    assert all(documents(block.text) for block in BLOCKS if block.language == "json")
