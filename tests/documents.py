"""The pages as a reader's fingers meet them: their fenced blocks, and the shell commands that stand in these.

Knows how the pages are written and nothing of what the commands do.
"""

import re
from dataclasses import dataclass
from textwrap import dedent

from tests.servers import ROOT

# Without a language a block is for the shell; what is none says `text`.
SHELL = ("", "sh")
_BLOCK = re.compile(r"^ *```(?P<language>[^\n]*)\n(?P<text>.*?)^ *```$", re.MULTILINE | re.DOTALL)
# What `ostinato write` shows before a typed line: > or, on a branch, its name and >.
_PROMPT = re.compile(r"\w*> ?")
_ASSIGNMENT = re.compile(r"\w+=\$\(")


@dataclass(frozen=True)
class Command:
    """What is entered at once, or an assignment and the command that needs it.

    Attributes:
        text: As bash reads it; it may have several lines.
        typed: Lines that the page shows being typed into the running program.
    """

    text: str
    typed: str = ""


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        place: The page and its line, as an editor finds it.
        language: What the fence says; "" for nothing.
    """

    place: str
    language: str
    text: str

    def commands(self):
        """Return the commands of a block for the shell: a transcript's lines behind `$ `, or else all lines."""
        is_transcript = re.search(r"^\$ ", self.text, re.MULTILINE)
        entered = _of_transcript(self.text) if is_transcript else [Command(text) for text in _joined(self.text)]
        return _with_assignments(entered)


def blocks(page):
    """Return the fenced blocks of a page: a path below the root, such as "docs/batch.md"."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [
        Block(f"{page}:{1 + len(text[: found.start()].splitlines())}", found["language"], dedent(found["text"]))
        for found in _BLOCK.finditer(text)
    ]


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


def _with_assignments(commands):
    """Let what a shell's variable is given stand with the command behind it, which one shell must run."""
    done, before = [], ""
    for command in commands:
        text = before + command.text
        if _ASSIGNMENT.match(command.text):
            before = f"{text}\n"
        else:
            done.append(Command(text, command.typed))
            before = ""
    assert not before, f"nothing uses {before!r}"
    return done
