"""The documentation as a reader types it: its fenced blocks, and the shell commands in them.

Tests find a page by what it has, so that pages can be renamed, merged and split.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass, replace
from itertools import pairwise
from textwrap import dedent

from tests.paths import ROOT

# Paths relative to the checkout.
PAGES = ["README.md", "SECURITY.md", "client/README.md"]
PAGES += sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))

# A block without a language calls a running service; one of `bash` needs the repository or a network, too. Any other
# block names its language.
SHELL = ("", "bash")
OUTPUT = ("json", "text")
_BLOCK = re.compile(r"^ *```(?P<language>[^\n]*)\n(?P<text>.*?)^ *```$", re.MULTILINE | re.DOTALL)
# The prompt of `sostenuto write`: > or, on a branch, its name and >.
_PROMPT = re.compile(r"\w*> ?")
_ASSIGNMENT = re.compile(r"(\w+)=\$\(")


@dataclass(frozen=True)
class Command:
    """A shell command, with its input.

    Attributes:
        text: As bash reads it; it may have several lines.
        typed: Lines that the page shows as typed into the running program.
    """

    text: str
    typed: str = ""

    @property
    def assigned(self):
        """The shell variable that the command's output is assigned to; None: there is none."""
        found = _ASSIGNMENT.match(self.text)
        return found and found[1]


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        place: The page and its line, as `page:line`.
        language: The fence's language; "" for none.
        output: The block right after it, with no text between, which shows its output. None: no output is shown.
    """

    place: str
    language: str
    text: str
    output: "Block | None" = None

    def commands(self):
        """Return the block's shell commands: the lines behind `$ ` of a transcript, or else all lines."""
        is_transcript = re.search(r"^\$ ", self.text, re.MULTILINE)
        return _of_transcript(self.text) if is_transcript else [Command(text) for text in _joined(self.text)]


def read(page):
    return (ROOT / page).read_text(encoding="utf-8")


def page_with(pattern):
    """Return the text of the only page in which a regular expression matches; ^ and $ match at line breaks."""
    (text,) = (text for text in map(read, PAGES) if re.search(pattern, text, re.MULTILINE))
    return text


def rows(*headings):
    header = re.escape(f"| {' | '.join(headings)} |")
    tables = re.findall(rf"^{header}.*\n\|[-|]+\n((?:\|.*\n?)+)", "\n".join(map(read, PAGES)), re.MULTILINE)
    return [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for table in tables for row in table.splitlines()
    ]


def blocks(page):
    """Return the fenced blocks of a page, given by its path relative to the checkout, without MyST's directives."""
    text = read(page)
    fences = list(_BLOCK.finditer(text))
    lines = [1 + text.count("\n", 0, fence.start()) for fence in fences]
    found = [
        Block(f"{page}:{line}", fence["language"], dedent(fence["text"]))
        for line, fence in zip(lines, fences, strict=True)
    ]
    for number, (fence, behind) in enumerate(pairwise(fences)):
        says_nothing = not text[fence.end() : behind.start()].strip()
        if says_nothing and fence["language"] in SHELL and behind["language"] in OUTPUT:
            found[number] = replace(found[number], output=found[number + 1])
    return [block for block in found if not block.language.startswith("{")]


def commands_of(page):
    return [command for block in blocks(page) if block.language in SHELL for command in block.commands()]


def make_site(folder):
    """Build the site with Sphinx, with warnings as errors: no orphaned page, no broken link."""
    folder.mkdir()
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-d", str(folder / "trees"), "-b", "html"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "client/src")}
    made = subprocess.run(
        [*command, "docs", str(folder / "site")],
        check=False,
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert (made.returncode, made.stderr) == (0, "")


def html_pages(site, part):
    pages = [path.read_text(encoding="utf-8") for path in site.rglob("*.html")]
    return [page for page in pages if part in page]


def spans(page):
    """Return the inline code of a page's sentences and tables, each on one line."""
    text = _BLOCK.sub("", read(page))
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]


def documents(text):
    """Return the JSON documents that a text consists of, one after another."""
    decoder, found, text = json.JSONDecoder(), [], text.strip()
    while text:
        document, end = decoder.raw_decode(text)
        found.append(document)
        text = text[end:].lstrip()
    return found


def fits(got, shown):
    """Return whether a JSON document has the form of the shown one: the same fields, with values of the same types.

    An object of numbers alone, such as the probabilities of tokens, may have other keys. A list may have any number of
    elements like the shown ones, but none if none is shown.
    """
    if isinstance(got, dict) and isinstance(shown, dict):
        if shown and all(isinstance(value, float) for value in shown.values()):
            return bool(got) and all(_kind(value) is float for value in got.values())
        return got.keys() == shown.keys() and all(fits(value, shown[name]) for name, value in got.items())
    if isinstance(got, list) and isinstance(shown, list):
        return bool(got) == bool(shown) and all(any(fits(value, one) for one in shown) for value in got)
    return _kind(got) is _kind(shown)


def _kind(value):
    return float if type(value) is int else type(value)


def _joined(text):
    """Return the commands of a shell text: its lines, joined after a backslash and within quotes, without comments."""
    commands = [""]
    for line in text.splitlines():
        if commands[-1]:
            commands[-1] += f"\n{line}"
        elif line.strip() and not line.lstrip().startswith("#"):
            commands[-1] = line
        if commands[-1] and _is_whole(commands[-1]):
            commands.append("")
    return [command for command in commands if command]


def _is_whole(command):
    """Return whether a command ends with neither a backslash nor an open quote."""
    try:
        shlex.split(command, comments=True)
    except ValueError:  # "No closing quotation", "No escaped character"
        return False
    return True


def _of_transcript(text):
    commands = []
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        entered = _joined(part)[0]
        shown = part.removeprefix(entered).splitlines()
        prompts = [(line, _PROMPT.match(line)) for line in shown]
        typed = "".join(f"{line[prompt.end() :]}\n" for line, prompt in prompts if prompt)
        commands.append(Command(entered, typed))
    return commands


# Pages with such a command are not tried here.
NOT_TRIED = (
    "docker compose down",  # needs Docker; tests/compose covers a part
    "kubectl create ",  # needs a cluster; tests/kubernetes has one
    "scripts/build-tensorflow-serving ",  # needs a clone of TensorFlow Serving
    "file=$(curl -s http://127.0.0.1:8000/v1/files ",  # needs a trainer; test_training.py enters the page
    "npm install ",  # gigabytes of other clients' packages
)
# Commands that are not run, by their beginning, and the reason.
NOT_RUN = {
    "make test": "is what runs this",
    "docker ": "needs Docker; tests/compose has it",
    "pip install ./client": "would change the tests' own environment",
    "pip install './client[": "would change the tests' own environment",
    'pip install ".[tune]"': "would change the tests' own environment",
    "pip install --no-": "would change the tests' own environment",
    "pip wheel ": "downloads 650 MB",
    "PIP_NO_INDEX=1 PIP_FIND_LINKS=$PWD/wheelhouse make run": "installs 2 GB, and serves until Ctrl-C",
    "sostenuto train ": "takes minutes; test_documents.py runs four, made short",
    "python ../sostenuto/examples/records_in_bulk.py ": "takes minutes; test_examples.py runs it",
    "sostenuto tune ": "takes as many minutes as it is given; test_search.py has a stand-in of the exporter",
    "sostenuto publish runs/book-tune/": "the run of a search",
    "sostenuto report new": "records of a model that has been trained for minutes; test_cli_report.py has others",
    "sostenuto batch in.jsonl out.csv --format csv --training ": "the reader's lists; test_cli_report.py has others",
    "sostenuto serve": "serves until Ctrl-C",
    "sostenuto demo": "trains for three minutes, and serves until Ctrl-C",
    "cat *.txt | sostenuto train ": "takes minutes",
    "sostenuto resume ": "takes the minutes that are left of a training run",
    "sostenuto import lesson.h5 ": "takes half a minute; a .keras file is imported, from another page",
    ".venv/bin/python -m benchmarks.": "takes minutes, and must be alone",
    "SOSTENUTO_KEYS_FILE=keys.json SOSTENUTO_HOST=0.0.0.0 make run": "opens a port to the network",
    "SOSTENUTO_PORTABLE=true make run": "serves until Ctrl-C",
    "sostenuto model-server --host=10.0.0.1 ": "another machine's address",
    "SOSTENUTO_STATE_KEY_FILE=.sostenuto-state-key sostenuto serve ": "other machines' addresses",
    "sostenuto remove ": "asks for confirmation at a terminal",
    "sostenuto batch in.jsonl out.jsonl --ray": "a cluster; test_batch.py has one",
}
# The pages that are tried.
TRIED = [page for page in PAGES if not any(command.text.startswith(NOT_TRIED) for command in commands_of(page))]
BLOCKS = [block for page in TRIED for block in blocks(page)]
COMMANDS = [command for page in TRIED for command in commands_of(page)]
