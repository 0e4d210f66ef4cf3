"""Same seed, same bytes: alone, in company, in other chunks, after a restart."""

import concurrent.futures

import pytest

from tests.conftest import MODEL_NAMES, TEXT
from tests.servers import ModelServer

NUM_REQUESTS = 64


def requests():
    """Return different requests: models, both directions, lengths, controls, stops, streams."""
    wanted = []
    for i in range(NUM_REQUESTS):
        model = (*MODEL_NAMES, "lstm")[i % 7]
        fields = {
            "model": model,
            "suffix" if model == "reverse" else "prompt": (TEXT * 9)[: (i * 13) % 500],
            "max_tokens": 1 + (i * 29) % 150,
            "temperature": (0, 0.7, 1.0, 1.6)[i % 4],
            "seed": i,
            "n": 1 + (i % 5 == 0),
        }
        fields |= [{}, {"top_k": 5}, {"top_p": 0.8}, {"min_p": 0.1}, {"stop": ["e", "10"]}][i % 5]
        wanted.append(fields)
    return wanted


def texts(gateway, fields):
    """Return every choice's text and reason, streamed for every other seed."""
    if fields["seed"] % 2:
        return [(choice["text"], choice["finish_reason"]) for choice in gateway.post(fields)[1]["choices"]]
    parts = [["", None] for _ in range(fields["n"])]
    # In pieces, the text of the one that reads backwards too.
    for event in gateway.stream(**fields, stream_options={"prepend": True}):
        for choice in event["choices"] if event else []:
            part = parts[choice["index"]]
            part[0] = choice["text"] + part[0] if choice.get("prepend") else part[0] + choice["text"]
            part[1] = choice["finish_reason"]
    return [tuple(part) for part in parts]


def all_at_once(gateway):
    """Send every request at the same time."""
    with concurrent.futures.ThreadPoolExecutor(NUM_REQUESTS) as pool:
        return list(pool.map(lambda fields: texts(gateway, fields), requests()))


@pytest.fixture(scope="module")
def alone(gateway):
    """Every request's texts, sent one after another."""
    return [texts(gateway, fields) for fields in requests()]


def test_company_changes_no_byte(gateway, alone):
    """64 different requests at once give what each gives alone, three times over."""
    for _ in range(3):
        assert all_at_once(gateway) == alone


@pytest.mark.parametrize(
    "settings", [{"max_chunk": 1}, {"max_chunk": 4}, {"max_calls": 1}, {"max_running": 9}], ids=str
)
def test_scheduling_changes_no_byte(start_gateway, alone, settings):
    """Chunk size, calls in flight and rows are a matter of speed alone; another gateway gives the same bytes."""
    assert all_at_once(start_gateway(**settings)) == alone


def test_a_restart_changes_no_byte(models_dir, start_gateway, alone, tmp_path):
    """A new model server process gives the same bytes, and the same fingerprint."""
    server = ModelServer(models_dir, tmp_path / "other.log")
    try:
        other = start_gateway(backend=server.port)
        assert all_at_once(other) == alone
    finally:
        server.end()


def test_the_row_counts_that_keep_the_promise_are_told(gateway):
    """Each model says at which row counts it runs; they are more than one here."""
    for model in gateway.get("/v1/models")[1]["data"]:
        assert len(model["row_counts"]) > 1
