"""Markdown of arbitrary text: nothing in it ends the code span, code block or table that holds it."""

import pytest

from export.repository.readme import code, fenced, printable


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *(("a.txt", "`a.txt`"), ("a`b", "``a`b``"), ("`a`", "`` `a` ``")),
        *(("a|b", "`a\\|b`"), ("a\nb\x1b", "`a b·`"), (" ", "")),
    ],
)
def test_a_code_span_stays_in_its_line_and_table_cell(text, expected):
    assert code(text) == expected


@pytest.mark.parametrize("text", ["plain", "```", "```\n# heading\n````", "`", "~~~"])
def test_no_text_closes_its_code_block(text):
    first, *lines, last = fenced(text, "text").split("\n")
    assert first == f"{last}text"
    assert set(last) == {"`"}
    assert "\n".join(lines) == text
    assert last not in text


def test_unprintable_characters_become_dots():
    """Escape sequences and line separators reach no terminal and no editor."""
    assert printable("a\x1b[2J\u2028b\r\n\tc\ud800") == "a·[2J·b·\n    c·"
