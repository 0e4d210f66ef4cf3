"""`ostinato score`, `tokens`, `inspect` and `models`: what a model makes of texts, and which models there are."""

from __future__ import annotations

import json
import math

import pytest

from tests.unit.client.scripted_responses import answer_json, models

TINY = ("--model", "tiny")
LOGPROBS = {
    "tokens": ["a", "b"],
    "token_logprobs": [None, -2.0],
    "top_logprobs": [None, {"c": -0.5, "b": -2.0}],
    "text_offset": [0, 1],
}


def scored(*texts):
    """Answer an echoed completion: the first token of each text has no score, the rest is one of -2 nats."""
    choices = []
    for index, text in enumerate(texts):
        num_tokens = min(2, len(text))
        logprobs = {name: entries[:num_tokens] for name, entries in LOGPROBS.items()}
        choices.append({"index": index, "text": text, "finish_reason": "length", "logprobs": logprobs})
    return answer_json({"choices": choices})


def test_a_score_is_told_in_four_figures(ostinato, server):
    """Of a text as it is given."""
    server.script = [models("tiny"), scored("abc")]
    shown = ostinato("score", "abc")
    assert shown.exit_code == 0, shown.stderr
    heading, row = shown.stdout.splitlines()
    assert heading.split() == ["text", "tokens", "log", "probability", "perplexity", "bits/character"]
    assert row.split() == ["abc", "2", "-2.000", f"{math.exp(2):.3f}", f"{1 / math.log(2):.3f}"]
    assert {name: server.bodies[1][name] for name in ("prompt", "echo", "max_tokens", "model")} == {
        "prompt": ["abc"],
        "echo": True,
        "max_tokens": 0,
        "model": "tiny",
    }


def test_each_line_is_a_text_with_a_score_of_its_own(ostinato, server):
    """An empty one too, so that lines and scores stay together; many go in several requests."""
    lines = ["ab", "", "a\x0bb", *["xy"] * 40]
    server.script = [models("tiny"), scored(*lines[:32]), scored(*lines[32:])]
    shown = ostinato("score", "--lines", "--json", given="\n".join(lines) + "\r\n")
    answers = [json.loads(line) for line in shown.stdout.splitlines()]
    assert [answer["text"] for answer in answers] == lines
    assert [body["prompt"] for body in server.bodies[1:]] == [lines[:32], lines[32:]]
    assert answers[0] == {
        "text": "ab",
        "tokens": 2,
        "logprob": -2.0,
        "perplexity": math.exp(2),
        "bits_per_character": 2 / math.log(2),
    }
    assert answers[1] == {"text": "", "tokens": 0, "logprob": 0.0, "perplexity": None, "bits_per_character": None}


def test_files_are_told_by_name(ostinato, server, tmp_path):
    """Several of them, each whole."""
    paths = [tmp_path / name for name in ("one.txt", "two.txt")]
    for path in paths:
        path.write_text(f"in {path.name}\n")
    server.script = [models("tiny"), scored("ab", "cd")]
    shown = ostinato("score", *(part for path in paths for part in ("--file", str(path)))).stdout
    assert server.bodies[1]["prompt"] == ["in one.txt\n", "in two.txt\n"]
    assert [line.split()[1:3] for line in shown.splitlines()[1:]] == [["2", "-2.000"]] * 2


@pytest.mark.parametrize("command", ["score", "inspect"])
@pytest.mark.parametrize("model", [None, "reverse:2", "reverse@canary"])
def test_a_model_that_reads_backwards_gets_the_text_as_suffix(ostinato, server, command, model):
    """By whichever name it is called."""
    entries = [{"id": "reverse", "direction": "backward"}, {"id": "tiny", "direction": "forward"}]
    server.script = [answer_json({"data": entries}), scored("ab")]
    shown = ostinato(command, "ab", *([] if model is None else ["--model", model]))
    assert shown.exit_code == 0, shown.stderr
    assert server.bodies[1]["suffix"] in ("ab", ["ab"])
    assert server.bodies[1]["prompt"] in ("", [""])
    assert server.bodies[1]["model"] == (model or "reverse")


def test_tokens_in_a_pipe_are_lines_of_id_and_text(ostinato, server):
    """What breaks lines is written out."""
    server.script = [answer_json({"tokens": [5, 6, 7], "token_strs": ["ab", "\n", "\t"]})]
    assert ostinato("tokens", "x", *TINY).stdout == "5\tab\n6\t\\n\n7\t\\t\n"


def test_tokens_as_json_are_ids_and_texts(ostinato, server):
    """On one line."""
    server.script = [answer_json({"tokens": [5, 6], "token_strs": ["ab", "\n"]})]
    assert json.loads(ostinato("tokens", "x", *TINY, "--json").stdout) == {"ids": [5, 6], "texts": ["ab", "\n"]}


@pytest.mark.parametrize(
    ("arguments", "given"),
    [(("5", "6"), ""), (("5,6",), ""), (("[5, 6]",), ""), ((), "5\n6\n"), (("-",), "5 6")],
)
def test_ids_are_joined_to_a_text(ostinato, server, arguments, given):
    """Given or piped in, as people write lists; the text is as it is."""
    server.script = [answer_json({"prompt": "ab\n"})]
    shown = ostinato("tokens", "--decode", *arguments, *TINY, given=given)
    assert shown.stdout == "ab\n"
    assert server.bodies[0]["tokens"] == [5, 6]


def test_inspect_as_json_has_every_token(ostinato, server):
    """With its probability, and the alternatives that were asked for."""
    server.script = [models("tiny"), scored("ab")]
    shown = json.loads(ostinato("inspect", "ab", "--top", "2", "--json").stdout)
    assert server.bodies[1]["logprobs"] == 2
    assert shown["text"] == "ab"
    assert shown["tokens"] == [
        {"text": "a", "offset": 0, "logprob": None, "probability": None, "alternatives": {}},
        {
            "text": "b",
            "offset": 1,
            "logprob": -2.0,
            "probability": math.exp(-2.0),
            "alternatives": {"c": -0.5, "b": -2.0},
        },
    ]


def test_models_are_told_with_their_versions_and_labels(ostinato, server):
    """The version that answers goes first; what the server does not tell is a dash."""
    versions = [{"version": 2, "labels": []}, {"version": 3, "labels": ["stable", "canary"]}]
    entry = {"id": "demo", "version": 3, "versions": versions, "cell": "lstm", "layers": 2, "units": 512}
    entry |= {"unit": "character", "vocab_size": 1234, "direction": "forward", "deterministic": False}
    server.script = [answer_json({"data": [entry, {"id": "bare"}]})]
    heading, demo, bare = ostinato("models").stdout.splitlines()
    assert demo.split("  ")[0:2] == ["demo", "3 stable canary, 2"]
    for fact in ("lstm", "2 × 512", "character", "1,234", "forward", "no"):
        assert fact in demo
    assert bare.split() == ["bare", "-", "-", "-", "×", "-", "-", "-", "-", "-"]
    assert heading.split()[-1] == "deterministic"


def test_models_as_json_are_as_the_server_tells_them(ostinato, server):
    """A line for each."""
    entries = [{"id": "a", "more": [1]}, {"id": "b"}]
    server.script = [answer_json({"data": entries})]
    assert [json.loads(line) for line in ostinato("models", "--json").stdout.splitlines()] == entries
