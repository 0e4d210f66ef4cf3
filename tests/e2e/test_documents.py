"""What the pages have a reader enter runs as it stands there, against the real service."""

import argparse
import contextlib
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

import pytest
from pydantic import ValidationError

import ostinato
from tests.built import built
from tests.conftest import TEXT, quick_to_load
from tests.documents import SHELL, blocks, documents, fits, spans
from tests.programs import program
from tests.servers import ROOT, Gateway, ModelServer
from tests.terminals import environment

# Docker and a cluster: what these two say is tried in tests/compose, or needs what is not at hand.
NOT_TRIED = {"docs/deployment.md", "docs/kubernetes.md"}
_FOUND = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))
PAGES = ["README.md", "client/README.md", *(page for page in _FOUND if page not in NOT_TRIED)]
BLOCKS = [block for page in PAGES for block in blocks(page)]
COMMANDS = [command for block in BLOCKS if block.language in SHELL for command in block.commands()]
ADDRESS = "http://127.0.0.1:8000"
PATIENCE_S = 120
# Every character of the pages' prompts, and more of them than the ids that the pages name.
CORPUS = "".join(map(chr, range(32, 127))) + TEXT * 20
# Behind a training of the pages, which takes seconds then.
SHORT = ["--units=16", "--epochs=1", "--batch-size=4", "--validation=0.3", "--runs-dir=runs", "--models-dir=trained"]
# The trainings that make the models which the pages ask: `book` and `demo`, which carry a state, and `reverse`.
TRAININGS = {"docs/quickstart.md": "book", "docs/how-to/train.md": "ending"}
# The key that a page revokes.
KEY_ID = "82qz9i5j"

# What does not run here, by its beginning, and why.
NOT_RUN = {
    "make run": "trains for three minutes, and serves until Ctrl-C",
    "make test": "is what runs this",
    "docker compose up": "needs Docker; tests/compose has it",
    "docker run ": "needs Docker, and an image that could not be had",
    "pip install ": "would change the tests' own environment",
    ".venv/bin/pip install ": "would change the tests' own environment",
    ".venv/bin/python -m export train ": "takes minutes; `made` runs two, made short",
    "cat *.txt | .venv/bin/python -m export train ": "takes minutes",
    ".venv/bin/python -m export resume ": "takes the minutes that are left of a training",
    ".venv/bin/python -m export wrap lesson.h5 ": "takes half a minute; a .keras file is wrapped, from another page",
    ".venv/bin/python -m benchmarks.": "takes minutes, and must be alone",
    "OSTINATO_KEYS_FILE=keys.json OSTINATO_HOST=0.0.0.0 make run": "opens a port to the network",
    "OSTINATO_PORTABLE=true make run": "serves until Ctrl-C",
    'curl -H "Authorization: Bearer ost-…" http://server:8000/': "another machine, and a key that is left out",
    ".venv/bin/python -m model_server --host=10.0.0.1 ": "another machine's address",
    "OSTINATO_STATE_KEY_FILE=.ostinato-state-key ": "other machines' addresses",
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


@dataclass(frozen=True)
class Session:
    """A page's commands, run one after another, up to one of which the page says something.

    Attributes:
        folder: Where they run.
        outputs: What each printed, as text.
        shown: What the page shows as the output of the block in which the last one stands; "" for nothing.
        client: Of the service that they ask.
    """

    folder: Path
    outputs: list[str]
    shown: str
    client: ostinato.Client

    @property
    def output(self):
        """What the last one printed."""
        return self.outputs[-1]


def it_is_thirty_bytes(session):
    """What `head` let through."""
    assert len(session.output.encode(errors="surrogateescape")) == 30


def halves_are_a_whole(session):
    """`story.txt` is what 100 tokens at once are."""
    seed = session.client.resume((session.folder / "story.state").read_text().strip(), max_tokens=1).seed
    whole = session.client.generate("The ", max_tokens=100, seed=seed)
    assert (session.folder / "story.txt").read_bytes().decode() == whole.text


def it_is_the_pieces_before_it(session):
    """The texts of the two commands before it, without the line's end that `jq` adds."""
    *_, first, second, whole = (output.removesuffix("\n") for output in session.outputs)
    assert first + second == whole


def it_is_drawn_again(session):
    """The seed that was told brings the same text."""
    drawn, again = (json.loads((session.folder / name).read_text()) for name in ("drawn.json", "again.json"))
    assert drawn["choices"][0]["text"] == again["choices"][0]["text"]


def it_is_a_number(session):
    """What `jq` found in the answer."""
    assert int(session.output) > 0


def it_is_known_up_to_the_last_word(session):
    """All of the prompt that was asked before."""
    assert json.loads(session.output)["prompt_tokens_details"] == {"cached_tokens": 19}


def the_text_so_far_is_in_the_error(session):
    """With its state."""
    code, num_tokens, size = documents(session.output)
    assert code == "deadline_exceeded"
    assert min(num_tokens, size) > 0


def it_is_refused_as_shown(session):
    """With the code and the field that the page shows, in one of its errors."""
    shown = [_reason(answer) for answer in documents(session.shown)]
    assert _reason(json.loads(session.output)) in shown


def _reason(answer):
    return {name: value for name, value in answer["error"].items() if name != "message"}


def there_are_two_texts(session):
    """The main one was taken back to its beginning; the branch beside it has what was typed."""
    load, folder = session.client.load_conversation, session.folder
    assert load(folder / "story.json").text == "Once upon a time"
    assert load(folder / "story.other.json").text.startswith("Once upon a time there was a dog")


def every_line_is_answered(session):
    """With success, under the id that the page's line has."""
    answers = [json.loads(line) for line in (session.folder / "out.jsonl").read_text().splitlines()]
    assert [(answer["custom_id"], answer["response"]["status_code"]) for answer in answers] == [("a", 200)]


def it_is_gone(session):
    """Its folder, too."""
    assert not (session.folder / "models/book/1").exists()


def it_is_drawn(session):
    """As a picture."""
    assert (session.folder / "compare.png").read_bytes().startswith(b"\x89PNG")


def stable_is_what_it_was(session):
    """Version 3, the newest, had answered before version 2 was promoted."""
    assert session.output == "stable of demo is version 3 now, was 2\n"


def it_is_among_what_is_shown(session):
    """Its lines, in their order."""
    assert session.output
    assert session.output in session.shown


def it_can_be_trained_on(session):
    """It is UTF-8, and some of it."""
    assert len((session.folder / "book.txt").read_text(encoding="utf-8")) > 100_000


def it_is_revoked(session):
    """The one that was made before it is kept."""
    keys = json.loads((session.folder / "keys.json").read_text())["keys"]
    assert [(key["tenant"], key["id"] == KEY_ID) for key in keys] == [("alice", False)]


_HTTP = f"curl -s {ADDRESS}"
# What the pages say of a command, by its beginning.
CLAIMS = {
    'ostinato generate "The " --max-tokens 90000 | head -c 30': it_is_thirty_bytes,
    "ostinato generate --state story.state ": halves_are_a_whole,
    'ostinato generate "The " --json | jq .usage': it_is_a_number,
    'ostinato write "Once upon a time" --file story.json ': there_are_two_texts,
    ".venv/bin/python -m service.batch in.jsonl out.jsonl": every_line_is_answered,
    ".venv/bin/python -m service keys revoke ": it_is_revoked,
    ".venv/bin/python -m export remove book:1": it_is_gone,
    ".venv/bin/python -m export compare book demo --plot compare.png": it_is_drawn,
    ".venv/bin/python -m export rollback demo": stable_is_what_it_was,
    ".venv/bin/python -m export promote book:": it_is_among_what_is_shown,
    ".venv/bin/python -m export rollback book": it_is_among_what_is_shown,
    ".venv/bin/python -m export wrap lesson.keras ": it_is_among_what_is_shown,
    "cat /usr/share/common-licenses/* > book.txt": it_can_be_trained_on,
    "jq -r '.choices[0].text' drawn.json again.json": it_is_drawn_again,
    f"""{_HTTP}/v1/completions \\\n  -d '{{"model": "demo", "prompt": "The ", "max_tokens": 100, "seed": 7}}'""": (
        it_is_the_pieces_before_it
    ),
    f"""{_HTTP}/v1/completions -d '{{"model": "demo", "prompt": "The quick brown fox jumps",""": (
        it_is_known_up_to_the_last_word
    ),
}
# What the service refuses, as the page wants to show, by its beginning.
REFUSED = {
    f"""{_HTTP}/v1/completions -d '{{"model": "demo", "prompt": "The ", "temperature": 3}}'""": it_is_refused_as_shown,
    f"""{_HTTP}/v1/completions -d '{{"model": "nosuch", """: it_is_refused_as_shown,
    f"""{_HTTP}/v1/completions \\\n  -d '{{"model": "demo", "prompt": "The ", "max_tokens": 90000, """: (
        the_text_so_far_is_in_the_error
    ),
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
    """`reader`, a folder with the files that the pages name, and `served`, a repository with the models they ask."""
    folder = tmp_path_factory.mktemp("documents")
    reader, served = folder / "reader", folder / "served"
    (reader / ".venv/bin").mkdir(parents=True)
    _write_program(reader / ".venv/bin/python")
    _write_corpora(reader)
    (requests,) = (block.text for block in blocks("docs/batch.md") if block.language == "json")
    (reader / "in.jsonl").write_text(requests)
    _make_key(reader / "keys.json")
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
    """Return the repository that the trainings of the pages fill."""
    trainings = []
    for page, name in TRAININGS.items():
        lines = [line for block in blocks(page) for line in block.text.splitlines()]
        trainings += [line for line in lines if f" train --corpus book.txt --name {name} " in line]
    assert len(trainings) == len(TRAININGS)

    def train(folder):
        """Train in this process, which has TensorFlow."""
        from export.cli import main

        folder.mkdir(parents=True)
        _write_corpora(folder)
        with contextlib.chdir(folder), quick_to_load():
            for training in trainings:
                program, *arguments = shlex.split(training, comments=True)
                assert (program, arguments[:2]) == (".venv/bin/python", ["-m", "export"])
                assert main(arguments[2:] + SHORT) == 0

    return built("documents", train, "".join(trainings)) / "trained"


def _make_key(path):
    """Make a file of keys that has the one of which the pages know the id."""
    from service.access.keys import KeyLimits, add_key

    key, _ = add_key(path, "bob", None, KeyLimits())
    path.write_text(path.read_text().replace(key.id, KEY_ID))


def _copy_version(version, models_dir, name, number):
    from export.repository.models_config import add_to_models_config

    shutil.copytree(version, models_dir / name / str(number))
    add_to_models_config(models_dir, name)


@pytest.fixture(scope="module")
def address(made, tmp_path_factory):
    """Where a gateway with its default settings serves `book`, `demo` and `reverse`."""
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


def is_entered(block):
    """Whether something of a block runs here."""
    return block.language == "python" or (block.language in SHELL and any(map(is_run, block.commands())))


# What a newcomer enters first; those of all other pages are for `make test-all`.
FIRST_PAGES = ("README.md", "docs/quickstart.md", "client/README.md")


PAGES_WITH_COMMANDS = [
    pytest.param(page, marks=[] if page in FIRST_PAGES else pytest.mark.slow)
    for page in PAGES
    if any(map(is_entered, blocks(page)))
]


@pytest.mark.parametrize("page", PAGES_WITH_COMMANDS)
def test_what_a_page_has_one_enter_runs(page, address, folder, surroundings, monkeypatch):
    """In order, in a folder with the files that it names, but for the address; what it shows and says of it is so."""
    monkeypatch.chdir(folder)
    for name, number in re.findall(r"(book|demo):(\d+)", "".join(block.text for block in blocks(page))):
        if not (folder / "models" / name / number).exists():
            _copy_version(folder / "models" / name / "1", folder / "models", name, int(number))
    names, outputs, variables = {}, [], {**surroundings, "OSTINATO_BASE_URL": address}
    with ostinato.Client(address) as client:
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
    """Run a command behind those before it; return what it prints, of which what the page says is so."""
    text, typed = command.text.replace(ADDRESS, address), command.typed or of(TYPED, command) or ""
    # What one command gives a shell's variable the next ones find there.
    kept = f"\ndeclare -p {command.assigned} >> .variables" if command.assigned else ""
    (session.folder / ".variables").touch()
    asks = command.text.startswith(ASKS)
    code, output, errors = enter(f". ./.variables\n{text}{kept}", session.folder, variables, typed, asks=asks)
    refused = of(REFUSED, command)
    # 141 where whoever read the output is gone, as docs/command-line.md says; 22 is curl's, where it was refused.
    expected = (22,) if refused else (0, 141) if "| head" in text else (0,)
    # What is cut off by bytes ends within a character, perhaps.
    output = output.decode(errors="surrogateescape")
    assert code in expected, f"{text}\n{code}: {output}{errors}"
    assert "null" not in output.splitlines(), f"{text}\nfinds nothing in the answer: {output}"
    session.outputs.append(output)
    if claim := refused or of(CLAIMS, command):
        claim(session)
    return output


def _compare(block, printed):
    """Find each JSON document that was printed in what the page shows of them, as to its fields, and the reverse."""
    if block.output and block.output.language == "json":
        # The pages' own `demo` knows where a text ends; those here do not.
        text = block.output.text.replace('"eos_token":"<end>"', '"eos_token":null')
        got, shown = documents(printed), documents(text)
        assert [one for one in got if not any(fits(one, other) for other in shown)] == [], block.output.place
        assert [one for one in shown if not any(fits(other, one) for other in got)] == [], block.output.place


def requests():
    """Return method, address below the service's, and body of each request that the pages send; None: no known body."""
    found = []
    for command in COMMANDS:
        words = shlex.split(command.text)
        posted = [body for flag, body in pairwise(words) if flag == "-d"]
        for url in (word for word in words if word.startswith(ADDRESS)):
            # In place of a shell's variable; what is piped in has its fields from a program.
            bodies = [json.loads(re.sub(r"\$\w+", "0", body)) for body in posted if not body.startswith("@")]
            found.append(("post" if posted else "get", url.removeprefix(ADDRESS), *(bodies or [None])))
    lines = [json.loads(block.text) for block in blocks("docs/batch.md") if block.language == "json"]
    return found + [(line["method"].lower(), line["url"], line["body"]) for line in lines]


def unknown_fields(kind, body):
    """Return what a body has and its type does not, at any depth; what else is wrong with it is for the service."""
    try:
        kind.model_validate(body, extra="forbid")
    except ValidationError as error:
        return [problem["loc"] for problem in error.errors() if problem["type"] == "extra_forbidden"]
    return []


def test_every_field_of_a_request_is_known():
    """The service passes over what it does not know, so that a slip would not show."""
    from service.api.openapi import ENDPOINTS

    for method, url, body in requests():
        path, query = urlsplit(url).path, parse_qs(urlsplit(url).query)
        (there,) = (
            address
            for address in ENDPOINTS
            if address.method == method and re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", address.path), path)
        )
        assert query.keys() <= dict(there.query).keys(), url
        assert body is None or unknown_fields(there.body, body) == [], url


def not_run(part):
    """Return what does not run here and has this part, each once."""
    return sorted({command.text for command in COMMANDS if not is_run(command) and part in command.text})


@pytest.mark.parametrize("text", not_run("OSTINATO_"))
def test_variables_of_what_is_not_run_are_settings(text):
    """Each is read by the gateway."""
    from service.settings import Settings

    names = re.findall(r"OSTINATO_(\w+)=", text)
    assert {name.lower() for name in names} <= Settings.model_fields.keys()


@pytest.mark.parametrize("text", not_run("make "))
def test_what_is_made_can_be_made(text, tmp_path, surroundings):
    """By the Makefile, which is asked what it would do."""
    asked = text.replace("make ", f"make --directory={ROOT} --dry-run ", 1)
    code, output, errors = enter(asked, tmp_path, surroundings)
    assert (code, bool(output)) == (0, True), errors


@pytest.mark.parametrize("text", not_run(" -m "))
def test_what_is_not_run_is_understood(text, monkeypatch):
    """The program's own parser takes the options, and the settings of a training fit together."""
    from export.cli import build_parser
    from export.config import TrainConfig, load_config
    from model_server.flags import parse
    from service.__main__ import _parser
    from service.batch.__main__ import _options

    def export(arguments):
        options = vars(build_parser().parse_args(arguments))
        if options["command"] == "train":
            given = {name: options[name] for name in TrainConfig.model_fields if name in options}
            load_config(options["config"], given)

    monkeypatch.chdir(ROOT)
    parsers = {"export": export, "model_server": parse, "service": _parser().parse_args, "service.batch": _options}
    words = shlex.split(text, comments=True)
    module, *arguments = words[words.index("-m") + 1 :]
    if module in parsers:
        parsers[module](arguments)
    else:
        assert (is_module(module), arguments) == (True, [])


def is_module(name):
    """Whether a module or a package of this name is here."""
    return importlib.util.find_spec(name) is not None


@pytest.mark.parametrize("text", sorted({command.text for command in COMMANDS if " install " in f"{command.text} "}))
def test_what_is_installed_is_there(text):
    """The folder or the file of requirements."""
    *_, place = shlex.split(text)
    name, _, extra = place.rstrip("]").partition("[")
    assert (ROOT / name).exists()
    project = tomllib.loads((ROOT / name / "pyproject.toml").read_text()) if extra else {}
    assert not extra or extra in project["project"]["optional-dependencies"]


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_names_in_passing_is_there(page):
    """What sentences and tables name: commands of the Makefile, modules that are run, and options of programs."""
    made = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    code = spans(page)
    targets = {target for span in code for target in re.findall(r"^(?:[A-Z]+=\S+ )?make ([a-z-]+)", span)}
    modules = {module for span in code for module in re.findall(r"-m ([a-z_.]+)", span)}
    assert targets <= made
    assert [module for module in modules if not is_module(module)] == []
    # A parser takes the beginning of an option as well, until there is another one that begins so.
    code += [block.text for block in blocks(page) if block.language in SHELL and ".venv/bin/python -m " in block.text]
    assert {option for span in code for option in re.findall(r"(?<![\w-])--[a-z][\w-]*", span)} <= options()


@functools.cache
def options():
    """Return every option of the programs that the pages name."""
    from export.cli import build_parser
    from model_server.flags import _parser as build_flags
    from service.__main__ import _parser as build_service

    # Those that are made from settings and flags are known to the parsers alone; the others stand in the sources.
    made = {option for parser in (build_parser(), build_flags(), build_service()) for option in _options_of(parser)}
    sources = [path for part in ("benchmarks", "client/src", "service") for path in (ROOT / part).rglob("*.py")]
    sources.append(ROOT / "tests/conftest.py")
    written = {option for path in sources for option in re.findall(r'["/](--[a-z][\w-]*)', path.read_text())}
    return made | written | {"--profile"}  # docker compose's


def _options_of(parser):
    for action in parser._actions:
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _options_of(command)


def test_shares_are_read(tmp_path):
    """As a gateway reads them."""
    from service.backends.routing import read_shares

    (shares,) = (block.text for block in BLOCKS if block.language == "toml")
    (tmp_path / "routing.toml").write_text(shares)
    assert read_shares(tmp_path / "routing.toml") == {"book": {"stable": 90, "canary": 10}}


TABLES = {"NOT_RUN": NOT_RUN, "TYPED": TYPED, "CLAIMS": CLAIMS, "REFUSED": REFUSED}


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_every_entry_is_about_a_command(table):
    """What no page has any more is taken out of the tables."""
    assert [entry for entry in table if not any(command.text.startswith(entry) for command in COMMANDS)] == []


def test_a_block_is_for_the_shell_or_says_what_else_it_is():
    """So none is passed over: a language that nothing here runs is no commands."""
    assert {block.language for block in BLOCKS} <= {*SHELL, "python", "json", "toml", "text"}
    assert all(documents(block.text) for block in BLOCKS if block.language == "json")
