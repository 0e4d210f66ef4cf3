"""`sostenuto next`, and the searches of `sostenuto generate`."""

import json

from tests.unit.client.scripted_responses import COMPLETION, answer_json

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


def test_generate_searches_for_the_most_probable_texts(sostenuto, server):
    choices = [
        {"index": i, "text": f"t{i}", "finish_reason": "stop", "logprobs": None, "cumulative_logprob": -1.5 - i}
        for i in range(2)
    ]
    server.script = [answer_json({**COMPLETION, "choices": choices})] * 2
    for given, fields in (
        ("--top-texts 2", {"top_texts": 2}),
        ("--beam-search --length-penalty 0.5 -n 4", {"use_beam_search": True, "length_penalty": 0.5, "n": 4}),
    ):
        shown = sostenuto("generate", "a", *given.split(), "--model", "tiny")
        assert shown.stdout == "==> 1 of 2 <==\nt0\n==> 2 of 2 <==\nt1\n"
        assert server.bodies[-1] == {"model": "tiny", "prompt": "a", **fields}
