"""The programs of `examples/` do what their docstrings say, against the real gateway."""

import json
import os
import re
import runpy
from pathlib import Path

import pytest

import sostenuto

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
PROGRAMS = sorted(path.name for path in EXAMPLES.glob("*.py"))
MAX_LINES = 60


@pytest.fixture
def run(capsys, monkeypatch):
    """Run an example in this process; return its exit code, standard output and standard error."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(name, *arguments, url=None):
        options = [] if url is None else ["--url", url]
        monkeypatch.setattr("sys.argv", [name, *map(str, arguments), *options])
        code = None
        try:
            runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        except SystemExit as end:
            code = end.code
        shown = capsys.readouterr()
        # As the interpreter does: a message goes to standard error, with exit code 1.
        return (1, shown.out, f"{shown.err}{code}\n") if isinstance(code, str) else (code or 0, shown.out, shown.err)

    return run


@pytest.fixture
def example(run, gateway):
    """Run an example against the gateway; it must succeed. Return its output."""

    def succeed(name, *arguments):
        code, out, err = run(name, *arguments, url=f"http://127.0.0.1:{gateway.port}")
        assert (code, err) == (0, "")
        return out

    return succeed


@pytest.fixture
def client(gateway):
    with sostenuto.Client(f"http://127.0.0.1:{gateway.port}") as client:
        yield client


def test_the_readme_lists_every_example():
    text = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"\]\((\w+\.py)\)", text)) == PROGRAMS
    assert len(PROGRAMS) == 4


@pytest.mark.parametrize("name", PROGRAMS)
def test_an_example_is_short_and_its_help_shows_how_to_run_it(run, name):
    assert len((EXAMPLES / name).read_text(encoding="utf-8").splitlines()) < MAX_LINES
    code, out, _ = run(name, "--help")
    assert code == 0
    assert f"python examples/{name} " in out
    assert "--url URL" in out


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("records_in_bulk.py", ()),
        ("continue_story.py", ("story.json",)),
        ("compare_versions.py", ("a:1", "a:2")),
        ("write_toward_an_ending.py", ("the end.",)),
    ],
)
def test_an_unreachable_server_is_an_error_of_one_line(run, monkeypatch, name, arguments, tmp_path):
    monkeypatch.setattr("sostenuto._retries.FIRST_WAIT_S", 0.01)
    arguments = [tmp_path / argument if argument == "story.json" else argument for argument in arguments]
    # Port 9 of loopback, discard, has no server.
    code, out, err = run(name, *arguments, url="http://127.0.0.1:9")
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert "http://127.0.0.1:9" in err
    assert err.count("\n") == 1


def test_records_are_those_of_the_api_in_order_without_duplicates(example, client):
    pattern = "(the )?[bwt][a-z]{1,4}( of [a-z]{2,3})?"
    sampling = {"model": "lstm", "max_tokens": 100, "unique": True, "structured_outputs": {"regex": pattern}}
    distinct, num_requests = [], 0
    while len(distinct) < 100:
        choices = client.generate(n=100, seed=5 + num_requests, stop="\n", **sampling).choices
        distinct, num_requests = (
            list(dict.fromkeys([*distinct, *(choice.text for choice in choices)])),
            num_requests + 1,
        )
    options = ("--model", "lstm", "--seed", 5, "--count", 100, "--regex", pattern)
    records = example("records_in_bulk.py", *options).splitlines()
    assert records == distinct[:100]
    assert all(re.fullmatch(pattern, record) for record in records)


def test_a_model_without_further_records_ends_with_an_error(run, gateway):
    arguments = ("--model", "lstm", "--regex", "a|b", "--count", 5)
    code, out, err = run("records_in_bulk.py", *arguments, url=f"http://127.0.0.1:{gateway.port}")
    assert code == 1
    assert sorted(out.splitlines()) == ["a", "b"]
    assert "had no new record; raise --temperature" in err


def test_a_story_continued_in_two_runs_equals_one_run(example, client, tmp_path):
    """The second run sends the resume token, and the third appends its prompt."""
    file, sampling = tmp_path / "story.json", ("--max-tokens", 30, "--temperature", 0.9)
    first = example("continue_story.py", file, "It was", "--model", "lstm", "--seed", 3, *sampling)
    second = example("continue_story.py", file, *sampling)
    whole = client.generate("It was", model="lstm", seed=3, max_tokens=60, temperature=0.9).text
    assert first.removesuffix("\n") + second.removesuffix("\n") == f"It was{whole}"
    third = example("continue_story.py", file, " best of", *sampling)
    assert third.startswith(" best of")
    assert json.loads(file.read_text(encoding="utf-8"))["text"] == f"It was{whole}{third.removesuffix(os.linesep)}"


def test_a_story_whose_resume_token_is_refused_is_processed_again(run, gateway, client, tmp_path):
    file = tmp_path / "story.json"
    url = f"http://127.0.0.1:{gateway.port}"
    state = client.generate("It was", model="lstm", max_tokens=5, return_state=True).state
    file.write_text(json.dumps({"text": "It was the", "state": state[:-4] + "AAAA"}), encoding="utf-8")
    code, out, err = run("continue_story.py", file, "--max-tokens", 10, url=url)
    assert err.startswith("the whole text is processed again: ")
    assert (code, len(out) > 1) == (0, True)
    file.write_text("no JSON", encoding="utf-8")
    assert run("continue_story.py", file, url=url)[2] == f"error: {file} is not a file of this program\n"


def test_two_models_are_compared_by_the_same_prompts_and_seeds(example, client):
    options = ("--prompt", "It was", "--seeds", 2, "--max-tokens", 20, "--temperature", 0.7)
    out = example("compare_versions.py", "lstm:1", "gru", *options)
    assert re.findall(r"^--- (.*)$", out, re.MULTILINE) == ["'It was', seed 0", "'It was', seed 1"]
    sampling = {"max_tokens": 20, "temperature": 0.7, "logprobs": 0}
    for model in ("lstm:1", "gru"):
        means = []
        for seed in (0, 1):
            choice = client.generate("It was", model=model, seed=seed, **sampling).choices[0]
            means.append(sum(choice.logprobs["token_logprobs"]) / len(choice.logprobs["token_logprobs"]))
            assert f"{model}: {means[-1]:.3f}" in out
        assert f"{model}: mean log probability per token {sum(means) / 2:.3f}\n" in out
    same = example("compare_versions.py", "lstm", "lstm:1", *options)
    for line in same.splitlines():
        if " | " in line and "lstm" not in line:
            left, right = line.split(" | ", 1)
            assert left.rstrip() == right.rstrip()


def test_texts_are_written_toward_an_ending(example, client):
    ending, sampling = "of times", ("--max-tokens", 20, "--seed", 4, "--n", 2)
    out = example("write_toward_an_ending.py", ending, *sampling)
    choices = client.generate(suffix=ending, model="reverse", n=2, max_tokens=20, seed=4, temperature=0.8).choices
    assert out == "\n\n".join(choice.text + ending for choice in choices) + "\n"


def test_a_forward_model_cannot_write_toward_an_ending(run, gateway):
    arguments = ("the end.", "--model", "lstm")
    code, _, err = run("write_toward_an_ending.py", *arguments, url=f"http://127.0.0.1:{gateway.port}")
    assert code == 1
    assert "suffix must be empty or absent" in err
