"""`sostenuto tokens`, `inspect`, `next` and `models`."""

import json
import math

import pytest

from tests.unit.client.scripted_responses import answer_json, models
from tests.unit.client.test_client_models import ROUTING

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


WORDS = [
    {"word": "king", "text": "ing", "probability": 0.5, "logprob": -0.6931472},
    {"word": "of", "text": " of", "probability": 0.0001, "logprob": -9.2103404},
]
RESPONSE = {"object": "list", "data": WORDS, "unexplored": 0.1, "limit_reached": False}


def test_next_prints_a_word_per_line_or_json_and_reads_standard_input(sostenuto, server):
    server.script = [answer_json(RESPONSE)] * 2
    shown = sostenuto("next", "the k", "-n", "2", "--model", "tiny")
    assert shown.exit_code == 0, shown.stderr
    assert [line.split() for line in shown.stdout.splitlines()] == [
        ["word", "text", "probability"],
        ["king", "‹ing›", "50.0%"],
        ["of", "‹", "of›", "1e-02%"],
    ]
    options = ("--json", "--label", "style=early", "--model", "tiny")
    entries = json.loads(sostenuto("next", *options, given="the k").stdout)
    assert [{name: entry[name] for name in ("word", "text", "logprob")} for entry in entries] == [
        {name: word[name] for name in ("word", "text", "logprob")} for word in WORDS
    ]
    assert {request.path for request in server.requests} == {"/v1/next"}
    asked = {"model": "tiny", "prompt": "the k"}
    assert server.bodies == [{**asked, "n": 2}, {**asked, "labels": {"style": "early"}}]


VERSION = {"version": 2, "labels": ["stable", "canary"], "share": 0.9, "corpus": "book.txt", "parent": "english:1"}
VERSION |= {"validation_loss": 1.3529, "parameters": 1280587, "size_bytes": 3 * 2**20, "bits_per_character": 1.952}
TABLE = """\
version  labels  traffic
      1  stable      90%
      2  canary      10%
"""


def test_versions_are_shown_with_what_is_known_of_them(sostenuto, server):
    server.script = [answer_json({**ROUTING, "versions": [VERSION, {"version": 1, "share": 0.1}]})]
    shown = sostenuto("models", "show", "book")
    assert (shown.exit_code, shown.stderr) == (0, "")
    assert shown.stdout == (
        "version  labels          traffic   loss  bits/char  parameters    size  corpus    from\n"
        "      2  stable, canary      90%  1.353      1.952   1,280,587  3.1 MB  book.txt  english:1\n"
        "      1  -                   10%      -          -           -       -  -         -\n"
        "not loaded: 3\n"
    )


@pytest.mark.parametrize(
    ("arguments", "request_", "body"),
    [
        (["promote", "book:2"], ("PATCH", "/v1/models/book"), {"labels": {"stable": 2}}),
        (["promote", "book:2", "--label", "canary"], ("PATCH", "/v1/models/book"), {"labels": {"canary": 2}}),
        (["unlabel", "book", "canary"], ("PATCH", "/v1/models/book"), {"labels": {"canary": None}}),
        (["split", "book", "stable=90", "2=10"], ("PATCH", "/v1/models/book"), {"shares": {"stable": 90, "2": 10}}),
        (["split", "book"], ("PATCH", "/v1/models/book"), {"shares": {}}),
        (["rollback", "book"], ("POST", "/v1/models/book/rollback"), {}),
    ],
)
def test_each_change_prints_the_traffic_afterwards(sostenuto, server, arguments, request_, body):
    server.script = [answer_json(ROUTING)]
    shown = sostenuto("models", *arguments)
    assert (shown.exit_code, shown.stdout, shown.stderr) == (0, TABLE, "")
    (sent,) = server.requests
    assert ((sent.method, sent.path), sent.body) == (request_, body)


def test_a_version_that_is_still_being_loaded_is_named(sostenuto, server):
    server.script = [answer_json({**ROUTING, "labels": {"stable": 3}})]
    assert "book:3 is being loaded for stable\n" in sostenuto("models", "promote", "book:3").stdout


def test_delete_asks_on_a_terminal(terminal, server):
    server.script = [answer_json({"id": "book:1", "object": "model", "deleted": True})]
    running = terminal("models", "delete", "book:1")
    running.wait_for(b"delete book:1? This cannot be undone.")
    running.type(b"n\n")
    code, shown = running.end()
    assert (code, "nothing was deleted" in shown) == (1, True)
    assert server.requests == []
    running = terminal("models", "delete", "book:1")
    running.wait_for(b"delete book:1? This cannot be undone.")
    running.type(b"y\n")
    assert running.end()[0] == 0
    assert [(each.method, each.path) for each in server.requests] == [("DELETE", "/v1/models/book%3A1")]
