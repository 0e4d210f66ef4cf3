"""`sostenuto score`, `tokens`, `inspect` and `models`."""

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
    """Respond with an echoed completion: each text has one token without a score, then one of -2 nats."""
    choices = []
    for index, text in enumerate(texts):
        num_tokens = min(2, len(text))
        logprobs = {name: entries[:num_tokens] for name, entries in LOGPROBS.items()}
        choices.append({"index": index, "text": text, "finish_reason": "length", "logprobs": logprobs})
    return answer_json({"choices": choices})


def test_score_prints_tokens_log_probability_perplexity_and_bits(sostenuto, server):
    server.script = [models("tiny"), scored("abc")]
    shown = sostenuto("score", "abc")
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


def test_with_lines_each_line_is_scored_by_itself(sostenuto, server):
    """Empty ones too, so that scores can be joined to lines; 32 texts per request."""
    lines = ["ab", "", "a\x0bb", *["xy"] * 40]
    server.script = [models("tiny"), scored(*lines[:32]), scored(*lines[32:])]
    shown = sostenuto("score", "--lines", "--json", given="\n".join(lines) + "\r\n")
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


def test_several_files_are_scored_as_one_text_each(sostenuto, server, tmp_path):
    paths = [tmp_path / name for name in ("one.txt", "two.txt")]
    for path in paths:
        path.write_text(f"in {path.name}\n")
    server.script = [models("tiny"), scored("ab", "cd")]
    shown = sostenuto("score", *(part for path in paths for part in ("--file", str(path)))).stdout
    assert server.bodies[1]["prompt"] == ["in one.txt\n", "in two.txt\n"]
    assert [line.split()[1:3] for line in shown.splitlines()[1:]] == [["2", "-2.000"]] * 2


@pytest.mark.parametrize("command", ["score", "inspect"])
@pytest.mark.parametrize("model", [None, "reverse:2", "reverse@canary"])
def test_a_backward_model_gets_the_text_as_suffix(sostenuto, server, command, model):
    entries = [{"id": "reverse", "direction": "backward"}, {"id": "tiny", "direction": "forward"}]
    server.script = [answer_json({"data": entries}), scored("ab")]
    shown = sostenuto(command, "ab", *([] if model is None else ["--model", model]))
    assert shown.exit_code == 0, shown.stderr
    assert server.bodies[1]["suffix"] in ("ab", ["ab"])
    assert server.bodies[1]["prompt"] in ("", [""])
    assert server.bodies[1]["model"] == (model or "reverse")


def test_tokens_in_a_pipe_are_lines_of_id_tab_and_string(sostenuto, server):
    server.script = [answer_json({"tokens": [5, 6, 7], "token_strs": ["ab", "\n", "\t"]})]
    assert sostenuto("tokens", "x", *TINY).stdout == "5\tab\n6\t\\n\n7\t\\t\n"


def test_tokens_as_json_are_ids_and_strings(sostenuto, server):
    server.script = [answer_json({"tokens": [5, 6], "token_strs": ["ab", "\n"]})]
    assert json.loads(sostenuto("tokens", "x", *TINY, "--json").stdout) == {"ids": [5, 6], "texts": ["ab", "\n"]}


@pytest.mark.parametrize(
    ("arguments", "given"),
    [(("5", "6"), ""), (("5,6",), ""), (("[5, 6]",), ""), ((), "5\n6\n"), (("-",), "5 6")],
)
def test_decode_accepts_ids_in_any_notation_of_lists(sostenuto, server, arguments, given):
    server.script = [answer_json({"prompt": "ab\n"})]
    shown = sostenuto("tokens", "--decode", *arguments, *TINY, given=given)
    assert shown.stdout == "ab\n"
    assert server.bodies[0]["tokens"] == [5, 6]


def test_inspect_as_json_has_every_token(sostenuto, server):
    server.script = [models("tiny"), scored("ab")]
    shown = json.loads(sostenuto("inspect", "ab", "--top", "2", "--json").stdout)
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


def test_models_are_listed_with_versions_and_labels(sostenuto, server):
    versions = [{"version": 2, "labels": []}, {"version": 3, "labels": ["stable", "canary"]}]
    entry = {"id": "demo", "version": 3, "versions": versions, "cell": "lstm", "layers": 2, "units": 512}
    entry |= {"unit": "character", "vocab_size": 1234, "direction": "forward", "deterministic": False}
    server.script = [answer_json({"data": [entry, {"id": "bare"}]})]
    heading, demo, bare = sostenuto("models").stdout.splitlines()
    assert demo.split("  ")[0:2] == ["demo", "3 stable canary, 2"]
    for fact in ("lstm", "2 × 512", "character", "1,234", "forward", "no"):
        assert fact in demo
    assert bare.split() == ["bare", "-", "-", "-", "×", "-", "-", "-", "-", "-"]
    assert heading.split()[-1] == "deterministic"


def test_models_as_json_are_the_servers_entries_unchanged(sostenuto, server):
    entries = [{"id": "a", "more": [1]}, {"id": "b"}]
    server.script = [answer_json({"data": entries})]
    assert [json.loads(line) for line in sostenuto("models", "--json").stdout.splitlines()] == entries


def test_a_tokenizer_is_written_to_a_directory(sostenuto, server, tmp_path):
    info = answer_json({"model": "tiny", "version": 3})
    files = [answer_json({"model": {}}), answer_json({"bos_token": None})]
    server.script = [info, *files, models("tiny"), info, *files, info, *files]
    for model in (["tiny@canary"], []):
        shown = sostenuto("tokenizer", *model, "-o", str(tmp_path / "a" / "tiny"))
        assert (shown.exit_code, shown.output) == (0, "")
    assert {file.name for file in (tmp_path / "a" / "tiny").iterdir()} == {"tokenizer.json", "tokenizer_config.json"}
    assert server.requests[0].path == "/tokenizer_info?model=tiny%40canary"
    (tmp_path / "file").touch()
    shown = sostenuto("tokenizer", "tiny", "-o", str(tmp_path / "file" / "tiny"))
    assert (shown.exit_code, shown.output) == (2, f"error: cannot write {tmp_path}/file/tiny: Not a directory\n")
