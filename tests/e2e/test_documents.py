"""Commands and Python of the documentation run as written, against the real service."""

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

from tests.built import built
from tests.conftest import TEXT, quick_to_load
from tests.documents import BLOCKS, COMMANDS, NOT_RUN, SHELL, TRIED, blocks, documents, fits
from tests.e2e.conftest import served
from tests.node import node
from tests.paths import ROOT
from tests.programs import program, write_entry_points
from tests.terminals import environment

ADDRESS = "http://127.0.0.1:8000"
PATIENCE_S = 120
# Every character of the pages' prompts, and a vocabulary larger than the token ids that the pages use.
CORPUS = "".join(map(chr, range(32, 127))) + TEXT * 20
# Appended to a training command of the pages, which then takes seconds.
SHORT = ["--units=16", "--epochs=1", "--batch-size=4", "--validation=0.3", "--runs-dir=runs", "--models-dir=trained"]
# The pages' training command of each model in use; `book` and `ending` carry state.
TRAININGS = {
    "book": "sostenuto train book.txt --units 256 ",
    "ending": "sostenuto train book.txt --name ending ",
    "names": "sostenuto train names.txt ",
    "normal": "sostenuto train normal.log ",
    "scripts": "sostenuto train scripts.csv ",
    "molecules": "sostenuto train molecules.smi --documents lines --token-regex smiles --epochs ",
    "diamonds": "sostenuto train diamonds.txt ",
}
# The pages that a newcomer enters first; `make test-all` runs the others. They have one model.
FIRST_PAGES = ("README.md", "client/README.md", "docs/quickstart.md")
# A Python block that begins with the name of a file is saved as that file.
FILE_NAME = re.compile(r"# (\w+\.py)\n")
# Numbers of records that the pages generate and score, and of those here.
FEWER = {"10000": "200", "5000": "100"}
# Lines of batch files.
REQUEST_LINES = [block for block in BLOCKS if block.language == "json" and '"custom_id": ' in block.text]
# Id of the key that a page revokes.
KEY_ID = "82qz9i5j"
# Input that a reader types into a program, where the page does not show it.
TYPED = {"sostenuto write --file story.json": "Once upon a time\n\n"}
# Commands whose output is what the page shows, by their beginning.
EXACT = ("sostenuto promote book:", "sostenuto rollback book", "sostenuto import lesson.keras ")
# Requests that a page shows being rejected.
REFUSED = (
    f"""curl -s {ADDRESS}/v1/completions -d '{{"model": "demo", "temperature": 3}}'""",
    f"""curl -s {ADDRESS}/v1/completions -d '{{"model": "nosuch"}}'""",
    f"""curl -s {ADDRESS}/v1/completions -d '{{"model": "demo",\n  "prompt": "HAMLET.\\n", "max_tokens": 90000, """,
)


def is_run(command):
    return not command.text.startswith(tuple(NOT_RUN))


@pytest.fixture(scope="module")
def surroundings(tmp_path_factory):
    """The environment of a shell with a virtual environment active, and a curl that fails on error responses."""
    for name in ("curl", "jq"):
        program(name)
    folder = tmp_path_factory.mktemp("programs")
    npm = node() / "lib/node_modules/npm/bin/npm-cli.js"
    _write_program(folder / "npm", shlex.quote(str(npm)), node() / "bin/node")
    _write_program(folder / "sostenuto", "-m sostenuto")
    _write_program(folder / "python")
    _write_program(folder / "pip", "-m pip")
    write_entry_points(folder)
    (folder / ".curlrc").write_text("fail-with-body\nsilent\n")
    return environment(
        PATH=f"{folder}:{os.environ['PATH']}",
        CURL_HOME=str(folder),
        PYTHONPATH=f"{folder}:{ROOT}:{ROOT / 'client/src'}",
        PYTHONWARNINGS="default",
        # What a page installs is for its commands alone.
        PIP_TARGET=str(folder),
        PIP_NO_DEPS="1",
    )


def _write_program(path, arguments="", interpreter=sys.executable):
    path.write_text(f'#!/bin/sh\nexec {shlex.quote(str(interpreter))} {arguments} "$@"\n')
    path.chmod(0o755)


def enter(text, folder, surroundings, typed):
    """Run a command with bash in a directory; return its exit code, its output and its errors."""
    with (folder / ".typed").open("w+") as given:
        given.write(typed)
        given.seek(0)
        pipes = {"stdin": given, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        command = ["bash", "-eu", "-o", "pipefail", "-c", text]
        running = subprocess.Popen(command, cwd=folder, env=surroundings, start_new_session=True, **pipes)
    try:
        output, errors = running.communicate(timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        os.killpg(running.pid, signal.SIGKILL)
        running.communicate()
        raise
    # Output that is cut off by bytes may end within a character.
    return running.returncode, output.decode(errors="surrogateescape"), errors.decode()


@pytest.fixture(scope="module")
def made(request, tmp_path_factory):
    """A directory with `reader`, the files that the pages name, and `served`, a repository with the models they use."""
    folder = tmp_path_factory.mktemp("documents")
    reader, served = folder / "reader", folder / "served"
    reader.mkdir()
    _write_corpora(reader)
    (reader / "in.jsonl").write_text("".join(block.text for block in REQUEST_LINES))
    _make_key(reader / "keys.json")
    (reader / "runs").mkdir()
    (reader / ".sostenuto-state-key").write_text("0" * 64)
    for name in ("book", "demo"):
        _copy_version(_trained("book"), reader / "models", name, 1)
        _copy_version(_trained("book"), served, name, 1)
    in_this_file = (item for item in request.session.items if item.path == request.path)
    if any(item.get_closest_marker("slow") for item in in_this_file):
        _copy_version(_trained("ending"), served, "reverse", 1)
        for name in ("names", "normal", "scripts", "molecules", "diamonds"):
            _copy_version(_trained(name), served, name, 1)
        for name in ("domains", "dga"):  # which are trained as `normal` is
            _copy_version(_trained("normal"), served, name, 1)
    return folder


def _write_corpora(folder):
    for name in ("book.txt", "page.txt"):
        (folder / name).write_text(CORPUS)
    names = (unicodedata.name(chr(code), "") for code in range(0x21, 0x200))
    names = [name for name in names if name]
    (folder / "names.txt").write_text("".join(f"{name}\n" for name in names))
    records = [(name, name.split()[0].lower(), name.count(" ")) for name in names] + [("NU", "greek", 1)] * 10
    (folder / "scripts.csv").write_text("text,script,words\n" + "".join("{},{},{}\n".format(*each) for each in records))
    for name in ("normal.log", "molecules.smi", "diamonds.txt"):
        (folder / name).write_text("".join(f"{CORPUS[n:]:.40}\n" for n in range(200)))


def _trained(name):
    """Return the version that a training command of the pages publishes."""
    (training,) = (command.text for command in COMMANDS if command.text.startswith(TRAININGS[name]))

    def train(folder):
        """Train in this process, which has already imported TensorFlow."""
        from tests.commands import main

        folder.mkdir(parents=True)
        _write_corpora(folder)
        with contextlib.chdir(folder), quick_to_load():
            _, *arguments = shlex.split(training, comments=True)
            assert main(arguments + SHORT) == 0

    return built(f"documents-{name}", train, training) / "trained" / name / "1"


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
    """The URL of a gateway with default settings that serves all these models."""
    logs, training = tmp_path_factory.mktemp("logs"), made / "training"
    with served(made / "served", logs, training_dir=training) as gateway:
        yield f"http://127.0.0.1:{gateway.port}"


RESULTS_OF_TRAINING = frozenset(
    {"corpus", "validation_loss", "trained_s", "discoveries", "percentile", "label_columns"}
)


@pytest.fixture
def folder(made, tmp_path):
    """A copy of the directory with the pages' files, for one test, beside the clone."""
    (tmp_path / "sostenuto").symlink_to(ROOT)
    return shutil.copytree(made / "reader", tmp_path / "reader")


def is_entered(block):
    """Return whether something of a block runs here."""
    return block.language == "python" or (block.language in SHELL and any(map(is_run, block.commands())))


PAGES_WITH_COMMANDS = [
    pytest.param(page, marks=[] if page in FIRST_PAGES else pytest.mark.slow)
    for page in TRIED
    if any(map(is_entered, blocks(page)))
]


@pytest.mark.parametrize("page", PAGES_WITH_COMMANDS)
def test_the_commands_and_python_of_a_page_run_as_written(page, address, folder, surroundings, monkeypatch):
    monkeypatch.chdir(folder)
    for name, number in re.findall(r"(book|demo):(\d+)", "".join(block.text for block in blocks(page))):
        if not (folder / "models" / name / number).exists():
            _copy_version(folder / "models" / name / "1", folder / "models", name, int(number))
    names, variables = {}, {**surroundings, "SOSTENUTO_BASE_URL": address}
    for block in filter(is_entered, blocks(page)):
        if file := FILE_NAME.match(block.text):
            Path(file[1]).write_text(_fewer(block.text))
        elif block.language == "python":
            exec(compile(block.text.replace(ADDRESS, address), block.place, "exec"), names)
        else:
            shown = block.output.text if block.output else ""
            printed = [_run(command, shown, address, variables) for command in filter(is_run, block.commands())]
            _compare(block, "".join(printed))
    assert "export" not in names or (folder / "models/mine/1/saved_model.pb").exists()


def _run(command, shown, address, variables):
    """Run a command after those before it in the working directory, and return its output."""
    text, folder = _fewer(command.text.replace(ADDRESS, address)), Path.cwd()
    typed = command.typed or next((lines for start, lines in TYPED.items() if command.text.startswith(start)), "")
    # Later commands find the shell variables that this one assigns.
    kept = f"\ndeclare -p {command.assigned} >> .variables" if command.assigned else ""
    (folder / ".variables").touch()
    code, output, errors = enter(f". ./.variables\n{text}{kept}", folder, variables, typed)
    # 141 after a closed pipe; 22 is curl's, for an error response.
    expected = (22,) if command.text.startswith(REFUSED) else (0, 141) if "| head" in text else (0,)
    assert code in expected, f"{text}\n{code}: {output}{errors}"
    assert "null" not in output.splitlines(), f"{text}\nfinds nothing in the answer: {output}"
    assert not command.text.startswith(EXACT) or (output and output in shown), f"{text}\n{output}"
    return output


def _fewer(text):
    return re.sub(r"\b(?:10000|5000)\b", lambda number: FEWER[number[0]], text)


def _compare(block, printed):
    """Check that printed JSON documents and those that the page shows have the same fields and error codes."""
    if block.output and block.output.language == "json":
        # The pages' `demo` has an EOS token; the one here has none.
        text = block.output.text.replace('"eos_token":"<end>"', '"eos_token":null')
        got, shown = _without_results(documents(printed)), _without_results(documents(text))
        assert [one for one in got if not any(fits(one, other) for other in shown)] == [], block.output.place
        assert [one for one in shown if not any(fits(other, one) for other in got)] == [], block.output.place
        assert _error_codes(got) == _error_codes(shown), block.output.place


def _without_results(value):
    """Set what a model has from its training to null: those here were trained for seconds, or not at all."""
    if isinstance(value, list):
        return [*map(_without_results, value)]
    if not isinstance(value, dict):
        return value
    return {name: None if name in RESULTS_OF_TRAINING else _without_results(one) for name, one in value.items()}


def _error_codes(found):
    return [one["error"]["code"] for one in found if isinstance(one, dict) and "error" in one]


TABLES = {"NOT_RUN": NOT_RUN, "TYPED": TYPED, "EXACT": EXACT, "REFUSED": REFUSED}


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_every_table_entry_matches_a_command(table):
    assert [entry for entry in table if not any(command.text.startswith(entry) for command in COMMANDS)] == []
