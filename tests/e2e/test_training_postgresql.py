"""Jobs in PostgreSQL: gateways and a trainer that share nothing but the database and directories."""

import json

import pytest

from tests.databases import needs_postgresql, new_database
from tests.servers import Gateway, Serving
from tests.uploads import multipart

TEXT = "It was the best of times, it was the worst of times, it was the age of wisdom.\n" * 60
SETTINGS = {"units": 16, "embedding": 8, "batch_size": 4, "max_minutes": 0.05}

pytestmark = [needs_postgresql, pytest.mark.slow]


@pytest.fixture
def url(tmp_path):
    with new_database("postgresql", tmp_path) as url:
        yield url


@pytest.fixture
def serving(url, tmp_path):
    running = Serving(tmp_path / "models", tmp_path, training_database=url)
    yield running
    running.end(timeout=120)


@pytest.fixture
def other(serving, url, tmp_path):
    settings = {"training_dir": tmp_path / "training", "training_database": url}
    running = Gateway(tmp_path / "models", serving.port, tmp_path / "gateway.log", ready=False, **settings)
    yield running
    running.kill()


def ask(server, method, address, body=None, headers=None):
    status, _, content = server.ask(method, address, body, headers=headers)
    assert status == 200, content
    return content


def test_a_job_is_queued_trained_and_followed_through_the_database(serving, other, tmp_path):
    """Uploaded to one gateway, queued by another one, trained by the trainer, and followed."""
    file_id = json.loads(ask(serving, "POST", "/v1/files", *multipart(TEXT.encode())))["id"]
    body = {"model": "characters-3-minutes", "training_file": file_id, "suffix": "book", "settings": SETTINGS}
    job_id = json.loads(ask(other, "POST", "/v1/fine_tuning/jobs", json.dumps(body)))["id"]
    events = ask(serving, "GET", f"/v1/fine_tuning/jobs/{job_id}/events?stream=true").decode()
    assert "published book:1" in events
    assert events.endswith("data: [DONE]\n\n")
    job = json.loads(ask(serving, "GET", f"/v1/fine_tuning/jobs/{job_id}"))
    assert (job["status"], job["fine_tuned_model"]) == ("succeeded", "book")
    assert len(serving.text(model="book", prompt="It was", max_tokens=5)) == 5
    assert not list((tmp_path / "training").glob("*.sqlite*"))
