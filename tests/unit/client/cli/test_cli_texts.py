"""`sostenuto tokens`, `inspect` and `models`."""

import json
import math

import pytest

from tests.unit.client.scripted_responses import answer_json, models

TINY = ("--model", "tiny")


def test_tokens_in_a_pipe_are_lines_of_id_tab_and_string_or_json(sostenuto, server):
    server.script = [answer_json({"tokens": [5, 6, 7], "token_strs": ["ab", "\n", "\t"]})] * 2
    assert sostenuto("tokens", "x", *TINY).stdout == "5\tab\n6\t\\n\n7\t\\t\n"
    whole = json.loads(sostenuto("tokens", "x", *TINY, "--json").stdout)
    assert whole == {"ids": [5, 6, 7], "texts": ["ab", "\n", "\t"]}


@pytest.mark.parametrize(
    ("arguments", "given"), [(("5", "6"), ""), (("5,6",), ""), (("[5, 6]",), ""), ((), "5\n6\n"), (("-",), "5 6")]
)
def test_decode_accepts_ids_in_any_notation_of_lists(sostenuto, server, arguments, given):
    server.script = [answer_json({"prompt": "ab\n"})]
    shown = sostenuto("tokens", "--decode", *arguments, *TINY, given=given)
    assert shown.stdout == "ab\n"
    assert server.bodies[0]["tokens"] == [5, 6]


def test_inspect_as_json_has_every_token(sostenuto, server):
    lists = {"tokens": ["a", "b"], "token_logprobs": [None, -2.0], "top_logprobs": [None, {"c": -0.5, "b": -2.0}]}
    rest = {"text_offset": [0, 1], "token_ids": [3, 4], "expected": {}, "positions": [0], "layers": []}
    server.script = [answer_json({**lists, **rest})]
    shown = json.loads(sostenuto("inspect", "ab", "--top", "2", "--json", *TINY).stdout)
    assert server.requests[0].path == "/v1/inspect"
    assert server.bodies[0].items() >= {"input": "ab", "include": [], "logprobs": 2}.items()
    second = {"text": "b", "offset": 1, "logprob": -2.0, "probability": math.exp(-2.0)}
    assert shown["text"] == "ab"
    assert shown["tokens"] == [
        {"text": "a", "offset": 0, "logprob": None, "probability": None, "alternatives": {}},
        {**second, "alternatives": {"c": -0.5, "b": -2.0}},
    ]


def test_models_are_listed_with_versions_and_labels_or_as_the_servers_json(sostenuto, server):
    versions = [{"version": 2, "labels": []}, {"version": 3, "labels": ["stable", "canary"]}]
    entry = {"id": "demo", "version": 3, "versions": versions, "cell": "lstm", "layers": 2, "units": 512}
    entry |= {"unit": "character", "vocab_size": 1234, "direction": "forward", "deterministic": False}
    entries = [entry, {"id": "bare", "more": [1]}]
    server.script = [answer_json({"data": entries})] * 2
    assert [json.loads(line) for line in sostenuto("models", "--json").stdout.splitlines()] == entries
    heading, demo, bare = sostenuto("models").stdout.splitlines()
    assert demo.split("  ")[0:2] == ["demo", "3 stable canary, 2"]
    for fact in ("lstm", "2 × 512", "character", "1,234", "forward", "no"):
        assert fact in demo
    assert bare.split() == ["bare", "-", "-", "-", "×", "-", "-", "-", "-", "-"]
    assert heading.split()[-1] == "deterministic"


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
