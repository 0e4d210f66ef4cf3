"""Whatever text is put into Markdown, it stays text."""

import pytest

from export.markdown import code, fenced, printable, table


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("book.txt", "`book.txt`"),
        ("a`b", "``a`b``"),
        ("`a`", "`` `a` ``"),
        ("a|b", "`a\\|b`"),
        ("a\nb\x1b", "`a b·`"),
        (" ", ""),
    ],
)
def test_code_within_a_line_stays_in_its_line_and_cell(text, expected):
    """No character ends the code or the table's cell."""
    assert code(text) == expected


@pytest.mark.parametrize("text", ["plain", "```", "```\n# heading\n````", "`", "~~~"])
def test_no_text_ends_its_fence(text):
    """The fence is longer than any run of backticks in it."""
    first, *lines, last = fenced(text, "text").split("\n")
    assert first == f"{last}text"
    assert set(last) == {"`"}
    assert "\n".join(lines) == text
    assert last not in text


def test_what_a_page_does_not_show_is_a_dot():
    """Escape sequences and separators reach no terminal and no editor."""
    assert printable("a\x1b[2J\u2028b\r\n\tc\ud800") == "a·[2J·b·\n    c·"


def test_a_table_has_a_line_for_each_row():
    """With a line of dashes below the head."""
    assert table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"
