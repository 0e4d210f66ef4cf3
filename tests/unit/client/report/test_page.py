"""The page of a report: safe, complete, and without scripts."""

import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest

from sostenuto import Report

EVIL = "<script>alert(1)</script>\x1b[31m\u202e&\"'"
ROWS = [{"n": i, "kind": "ab"[i % 2], "text": EVIL + str(i)} for i in range(60)]


@pytest.fixture(scope="module")
def page():
    """The page of a report on a table with everything, and text that would be markup."""
    generated = [EVIL, *(f'{{"n": {i}, "kind": "a", "text": "x{i}"}}' for i in range(60))]
    return Report.compute(generated, ROWS, held_out=ROWS[:40], pattern=".*", smiles=True).to_html()


class Outline(HTMLParser):
    """Collects tags, their attributes and headings, and checks that tags are closed in order."""

    def __init__(self):
        super().__init__()
        self.open, self.attributes, self.headings, self.tags = [], [], [], set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] == ["h2"]:
            self.headings.append(data)


@pytest.fixture(scope="module")
def outline(page):
    found = Outline()
    found.feed(page)
    assert found.open == []
    return found


def test_generated_text_is_never_markup(page, outline):
    assert "script" not in outline.tags
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert not re.search("[\x00-\x08\x1b\u202e]", page)
    assert "\\u202e" in page


def test_the_policy_allows_the_pages_own_style_sheet_and_nothing_else(page, outline):
    (style,) = re.findall("<style>(.*?)</style>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'sha256-{digest}'" in page
    names = {name for name, _ in outline.attributes}
    assert "style" not in names
    assert names.isdisjoint({"src", "href", "onclick", "srcset"})


def test_the_page_has_every_part_of_the_report(outline):
    assert outline.headings == [
        *("Overview", "Invalid records", "Lengths", "Characters and n-grams", "Novelty", "Columns", "Correlations"),
        *("Classifier test", "Definitions"),
    ]


def test_a_value_that_training_has_not_is_shown_of_the_set_that_has_it():
    """Each set lists values of its own after those of training."""
    tables = [[{"a": value} for value in values] for values in (["x", "new"], ["x", "x"], ["x", "y"])]
    page = Report.compute(tables[0], tables[1], held_out=tables[2]).to_html()
    assert "new, generated: 50.0%" in page
    assert "new, held-out: 0.000%" in page


def test_a_value_beyond_those_that_a_set_lists_has_no_share():

    held_out = [{"a": f"v{i}"} for i in range(12) for _ in range(2)] + [{"a": "new"}]
    generated = [{"a": "x"}, {"a": "new"}] * 13
    page = Report.compute(generated[:26], [{"a": "x"}] * 26, held_out=[*held_out, {"a": "x"}]).to_html()
    assert "new, generated: 50.0%" in page
    assert "new, held-out: –" in page


def test_parts_that_a_report_lacks_are_left_out():
    page = Report.compute(["a"], ["b"]).to_html()
    assert not re.search("<h2>(Columns|Correlations|Classifier test|Invalid records)</h2>", page)
