"""The pages as a reader's fingers meet them: their fenced blocks, and the shell commands that stand in these.

Knows how the pages are written and nothing of what the commands do.
"""

import json
import re
from dataclasses import dataclass, replace
from itertools import pairwise
from textwrap import dedent

from tests.servers import ROOT

# Without a language a block asks a running service, as `bash` it needs the repository or a network, too; what is
# neither says what else it is.
SHELL = ("", "bash")
OUTPUT = ("json", "text")
_BLOCK = re.compile(r"^ *```(?P<language>[^\n]*)\n(?P<text>.*?)^ *```$", re.MULTILINE | re.DOTALL)
# What `ostinato write` shows before a typed line: > or, on a branch, its name and >.
_PROMPT = re.compile(r"\w*> ?")
_ASSIGNMENT = re.compile(r"(\w+)=\$\(")


@dataclass(frozen=True)
class Command:
    """What is entered at once.

    Attributes:
        text: As bash reads it; it may have several lines.
        typed: Lines that the page shows being typed into the running program.
    """

    text: str
    typed: str = ""

    @property
    def assigned(self):
        """The shell's variable that is given what a command prints; None: it does something else."""
        found = _ASSIGNMENT.match(self.text)
        return found and found[1]


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        place: The page and its line, as an editor finds it.
        language: What the fence says; "" for nothing.
        output: The block right behind it, with nothing said between: what it prints. None: what is there is no output.
    """

    place: str
    language: str
    text: str
    output: "Block | None" = None

    def commands(self):
        """Return the commands of a block for the shell: a transcript's lines behind `$ `, or else all lines."""
        is_transcript = re.search(r"^\$ ", self.text, re.MULTILINE)
        return _of_transcript(self.text) if is_transcript else [Command(text) for text in _joined(self.text)]


def blocks(page):
    """Return the fenced blocks of a page, a path below the root such as "docs/batch.md", but for MyST's directives."""
    text = (ROOT / page).read_text(encoding="utf-8")
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


def spans(page):
    """Return the code that stands within a page's sentences and tables, each on one line."""
    text = _BLOCK.sub("", (ROOT / page).read_text(encoding="utf-8"))
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]


def documents(text):
    """Return the JSON documents that stand in a text one after another."""
    decoder, found, text = json.JSONDecoder(), [], text.strip()
    while text:
        document, end = decoder.raw_decode(text)
        found.append(document)
        text = text[end:].lstrip()
    return found


def fits(got, shown):
    """Whether a JSON document is such a one as the one that is shown: the same fields, values of the same kinds.

    What has numbers alone, such as the probabilities of tokens, may have them under other names. A list has elements
    such as the shown ones, and any number of them, but none where none is shown.
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
    """Return the lines that are no comments, each with those that a backslash adds to it."""
    lines = re.sub(r"\\\n", "\\\\\0", text).splitlines()
    return [line.replace("\0", "\n") for line in lines if line.strip() and not line.lstrip().startswith("#")]


def _of_transcript(text):
    commands = []
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        entered = _joined(part)[0]
        shown = part.removeprefix(entered).splitlines()
        prompts = [(line, _PROMPT.match(line)) for line in shown]
        typed = "".join(f"{line[prompt.end() :]}\n" for line, prompt in prompts if prompt)
        commands.append(Command(entered, typed))
    return commands
