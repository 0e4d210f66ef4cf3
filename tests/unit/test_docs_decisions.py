"""The decision records in docs/adr are complete, short and numbered."""

import re

import pytest

from tests.paths import ROOT

FOLDER = ROOT / "docs/adr"
RECORDS = sorted(FOLDER.glob("0*.md"))


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_a_record_has_its_three_parts_in_at_most_40_lines(path):
    text = path.read_text(encoding="utf-8")
    assert re.findall(r"^\*\*(\w+)\.\*\*", text, re.MULTILINE) == ["Context", "Decision", "Consequences"]
    assert len(text.splitlines()) <= 40


def test_records_are_numbered_without_a_gap_and_listed_by_their_titles():
    titles = [path.read_text(encoding="utf-8").splitlines()[0] for path in RECORDS]
    listed = re.findall(r"^\| \[(\d+)\]\((\S+)\) \| (.*) \|$", (FOLDER / "index.md").read_text(), re.MULTILINE)
    assert [(f"# {number}. {title}", name) for number, name, title in listed] == [
        (title, path.name) for title, path in zip(titles, RECORDS, strict=True)
    ]
    assert [int(path.name[:4]) for path in RECORDS] == list(range(1, len(RECORDS) + 1))
