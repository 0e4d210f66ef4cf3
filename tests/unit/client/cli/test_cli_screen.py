"""Output in terminals of any width, with and without colors: never with active control characters."""

import pytest
from rich.cells import cell_len

from sostenuto._cli.terminal import on_one_line, print_table
from sostenuto._concurrency import visible
from tests.unit.client.scripted_responses import DONE, WHOLE, answer_json, chunk, models, stream

GENERATE = ("generate", "Once", "--model", "tiny")
SHOWN = {"tokens": ["a", "b", "\n", "\x1b]0;mine\x07"], "token_logprobs": [None, -0.1, -3.0, -9.0]}
SHOWN |= {"top_logprobs": [None, {"b": -0.1}, {"c": -0.5, "\n": -3.0}, {"d": -0.5}], "text_offset": [0, 1, 2, 3]}
SHOWN |= {"token_ids": [3, 4, 5, 6], "expected": {}, "positions": [0], "layers": []}


@pytest.mark.parametrize("text", ["Größe", "大きさ", "שלום", "👩‍👩‍👧", "a\tb\nc", "e\u0301"])
def test_printable_text_is_shown_unchanged(text):
    assert visible(text) == text


@pytest.mark.parametrize("character", ["\x1b", "\x07", "\x08", "\r", "\x00", "\x7f", "\x9b", "\u202e", "\u2066"])
def test_control_and_bidi_characters_are_escaped(character):
    assert visible(f"a{character}b") == f"a\\u{ord(character):04x}b"


def test_line_ends_and_tabs_are_escaped_in_a_table_cell():
    assert on_one_line("a\nb\tc\r") == "a\\nb\\tc\\r"


def test_columns_are_aligned_by_display_width(capsys):
    print_table(("id", "size"), [["大き", "1"], ["e\u0301", "10"]], numbers=("size",))
    assert capsys.readouterr().out == "id    size\n大き     1\ne\u0301       10\n"


@pytest.mark.parametrize(
    ("command", "answer"),
    [((*GENERATE, "-q"), stream([chunk("a\u2603b", "stop"), DONE])), (("models",), models("a\u2603b"))],
    ids=["text", "table"],
)
def test_characters_that_a_terminal_lacks_are_question_marks(terminal, server, command, answer):
    server.script = [answer]
    code, shown = terminal(*command, PYTHONIOENCODING="ascii").end()
    assert (code, "a?b" in shown) == (0, True)


def test_generated_escape_sequences_do_not_reach_the_terminal(terminal, server):
    server.script = [stream([chunk("a\x1b"), chunk("]0;mine\x07"), chunk("\x9b31m", "length"), DONE])]
    code, shown = terminal(*GENERATE, "-q").end()
    assert (code, shown) == (0, "a\\u001b]0;mine\\u0007\\u009b31m\n")


@pytest.mark.parametrize("arguments", [("--json",), ("--json", "--stream")])
def test_json_in_a_terminal_is_valid_and_escaped(terminal, server, arguments):
    """JSON allows control characters above 0x7e unescaped; a terminal would interpret them."""
    whole = {"choices": [{"index": 0, "text": "\x9b31m\x7f", "finish_reason": None}]}
    server.script = [answer_json(whole) if len(arguments) == 1 else stream([chunk("\x9b31m\x7f"), DONE])]
    _, shown = terminal(*GENERATE, *arguments, columns=1000).end()
    assert r'"text": "\u009b31m\u007f"' in shown


def test_a_terminal_gets_a_dim_summary_line(terminal, server):
    server.script = [stream(WHOLE)] * 3
    _, shown = terminal(*GENERATE).end()
    text, line = shown.splitlines()
    assert text == " upon a time"
    assert line.startswith("\x1b[2m3 tokens · ")
    assert "tokens/s · seed 7 · length" in line
    _, plain = terminal(*GENERATE, NO_COLOR="1", TERM="dumb").end()
    assert "seed 7" in plain
    assert "\x1b" not in plain
    assert terminal(*GENERATE, "-q").end()[1] == " upon a time\n"


@pytest.mark.parametrize("columns", [100, 20])
def test_a_table_wider_than_the_terminal_becomes_a_list(terminal, server, columns):
    entry = {"id": "a-model-of-mine", "cell": "lstm", "layers": 1, "units": 512, "vocab_size": 1234}
    server.script = [answer_json({"data": [entry]})]
    code, shown = terminal("models", columns=columns).end()
    assert code == 0
    assert ("id: a-model-of-mine" in shown) == (columns == 20)
    for fact in ("a-model-of-mine", "lstm", "1 × 512", "1,234"):
        assert fact in shown


def test_inspect_shades_tokens_by_probability(terminal, server):
    server.script = [models("tiny"), answer_json(SHOWN)]
    _, shown = terminal("inspect", "ab\n\x1b]0;mine\x07").end()
    assert "\x1b[30;48;5;229m⏎" in shown
    assert "< 0.1%" in shown
    assert "\x1b]0;" not in shown
    surprises = shown.partition("alternatives")[2].splitlines()[1:]
    assert [line.split("›")[0].rpartition("‹")[2] for line in surprises] == ["\\u001b]0;mine\\u0007", "\\n", "b"]


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=lambda wish: next(iter(wish)))
def test_without_colours_inspect_prints_a_table(terminal, server, variables):
    server.script = [models("tiny"), answer_json(SHOWN)]
    _, shown = terminal("inspect", "ab", **variables).end()
    assert "48;5" not in shown
    assert "5.0%  ‹c› 60.7%\n" in shown
    assert "‹\\u001b]0;mine\\u0007›" in shown


@pytest.mark.parametrize("columns", [80, 23])
def test_tokens_are_wrapped_at_the_width_of_the_terminal(terminal, server, columns):
    texts = ["ab", " ", "\n", "大き", "👍"]
    server.script = [answer_json({"tokens": [5, 6, 7, 8, 9], "token_strs": texts})]
    _, shown = terminal("tokens", "x", "--model", "tiny", columns=columns, NO_COLOR="1", TERM="dumb").end()
    assert " ".join(shown.split("\n")).strip() == "5‹ab› 6‹ › 7‹\\n› 8‹大き› 9‹👍›"
    assert len(shown.splitlines()) == (1 if columns == 80 else 2)
    assert all(cell_len(line) <= columns for line in shown.splitlines())
