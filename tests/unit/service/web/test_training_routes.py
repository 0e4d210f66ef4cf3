"""Jobs over HTTP, from each database: their quota of minutes, their metadata, and what no database can store."""

import contextlib
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from gunicorn.http.body import Body, ChunkedReader
from gunicorn.http.unreader import IterUnreader
from sqlalchemy.exc import OperationalError

from jobs.store import JobStore
from service.access.keys import KeyLimits, add_key, revoke_keys
from service.app import create_app
from service.context import owned_name
from service.errors import Overloaded
from service.settings import Settings
from tests.databases import DATABASES, new_database
from tests.unit.service.engines import Models
from tests.uploads import multipart


@pytest.fixture(params=DATABASES)
def gateway(request, tmp_path):
    """A gateway without models, which may train for five minutes a day."""
    (tmp_path / "models").mkdir()
    with new_database(request.param, tmp_path) as url:
        directories = {"models_dir": tmp_path / "models", "training_dir": tmp_path / "training"}
        app = create_app(Settings(**directories, training_database=url, max_tenant_minutes=5))
        yield app
        app.close()


@pytest.fixture
def ask(gateway):
    client = gateway.test_client()

    def send(method, path, body=None, headers=None):
        data = body if headers else None if body is None else json.dumps(body)
        response = client.open(path, method=method, data=data, headers=headers)
        return response.status_code, response.json

    return send


@pytest.fixture
def job(ask):
    return {"model": "characters-3-minutes", "training_file": ask("POST", "/v1/files", *multipart(b"text"))[1]["id"]}


def test_minutes_are_reserved_by_the_recipe_and_shown(ask, job):
    status, created = ask("POST", "/v1/fine_tuning/jobs", job)
    assert (status, created["settings"]["max_minutes"], created["trained_s"]) == (200, 2.9, 0)
    minutes = {"limit": 5, "trained": 0, "reserved": 2.9}
    assert ask("GET", "/v1/fine_tuning/jobs")[1]["training_minutes"] == minutes
    status, refusal = ask("POST", "/v1/fine_tuning/jobs", job)
    assert (status, refusal["error"]["code"]) == (429, "quota_reached")
    words = "at most 5 minutes in 24 hours, got 0.0 trained, 2.9 reserved for unfinished jobs and 2.9 requested"
    assert words in refusal["error"]["message"]
    assert ask("POST", "/v1/fine_tuning/jobs", {**job, "settings": {"max_minutes": 2}})[0] == 200


@pytest.mark.parametrize(
    ("path", "media_type"), [("files", "multipart/form-data; boundary=x"), ("fine_tuning/jobs", None)]
)
def test_malformed_chunks_are_an_invalid_request(gateway, path, media_type):
    body = Body(ChunkedReader(None, IterUnreader([b"zz\r\n"])))
    environ = {"wsgi.input": body, "wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"}
    response = gateway.test_client().post(f"/v1/{path}", content_type=media_type, environ_overrides=environ)
    message = "the body's chunked encoding is malformed: InvalidChunkSize"
    assert (response.status_code, response.json["error"]["message"]) == (400, message)


def test_a_time_limit_also_holds_with_a_number_of_epochs(ask, job):
    epochs = {"hyperparameters": {"n_epochs": 2}, "settings": {"max_minutes": 1}}
    created = ask("POST", "/v1/fine_tuning/jobs", {**job, **epochs})[1]
    assert (created["settings"]["epochs"], created["settings"]["max_minutes"]) == (2, 1)


def test_settings_have_the_types_of_the_exporters_options(ask, job):
    """Otherwise the job would be accepted, and fail when its trainer starts the exporter."""
    given = {"units": 64.0, "tie_embeddings": "yes", "dropout": "0.5", "token_regex": "fields", "seed": "7"}
    created = ask("POST", "/v1/fine_tuning/jobs", {**job, "settings": given})[1]
    expected = {"units": 64, "tie_embeddings": True, "dropout": 0.5, "token_regex": ["fields"], "seed": 7}
    assert json.dumps({name: created["settings"][name] for name in given}) == json.dumps(expected)
    assert created["seed"] == 7


@pytest.mark.parametrize(("given", "multiplied"), [({}, None), ({"learning_rate": 0.02}, 0.06)])
def test_only_a_given_learning_rate_is_multiplied_here(ask, job, given, multiplied):
    """That of a recipe depends on the text, which the trainer reads."""
    times = {"hyperparameters": {"learning_rate_multiplier": 3}, "settings": given}
    assert ask("POST", "/v1/fine_tuning/jobs", {**job, **times})[1]["settings"].get("learning_rate") == multiplied


def test_a_job_with_a_backward_base_has_its_direction(gateway, ask, job, monkeypatch):
    """Clients show its samples in reading order."""
    monkeypatch.setattr(gateway.services, "model_registry", Models())
    bodies = [{**job, "model": name, "settings": {"max_minutes": 1}} for name in ("matches", "matches backward")]
    created = [ask("POST", "/v1/fine_tuning/jobs", body)[1] for body in bodies]
    assert [each["settings"].get("direction") for each in created] == [None, "backward"]


def test_a_setting_that_contradicts_the_base_is_refused_when_the_job_is_created(gateway, ask, job, monkeypatch):
    monkeypatch.setattr(gateway.services, "model_registry", Models())
    wrong = {**job, "model": "matches", "settings": {"direction": "backward"}}
    status, refusal = ask("POST", "/v1/fine_tuning/jobs", wrong)
    assert (status, refusal["error"]["param"]) == (400, "settings")
    assert "direction = backward contradicts matches:1, which has direction = forward" in refusal["error"]["message"]


def test_a_base_with_more_units_than_a_job_may_have_is_refused(gateway, ask, job, monkeypatch):
    monkeypatch.setattr(gateway.services, "model_registry", Models())
    limited = gateway.services.settings.model_copy(update={"max_training_units": 2})
    monkeypatch.setattr(gateway.services, "training", replace(gateway.services.training, settings=limited))
    status, refusal = ask("POST", "/v1/fine_tuning/jobs", {**job, "model": "matches", "settings": {"max_minutes": 1}})
    assert (status, refusal["error"]["param"]) == (400, "model")
    assert refusal["error"]["message"] == "model must have at most 2 units to be trained, got 4"


def test_a_fraction_to_validate_with_excludes_a_file(ask, job):
    both = {"settings": {"validation": 0.2}, "validation_file": job["training_file"]}
    status, refusal = ask("POST", "/v1/fine_tuning/jobs", {**job, **both})
    assert (status, "exclude each other" in refusal["error"]["message"]) == (400, True)


def test_a_deleted_job_does_not_exist(gateway, ask, job):
    job_id = ask("POST", "/v1/fine_tuning/jobs", job)[1]["id"]
    ask("POST", f"/v1/fine_tuning/jobs/{job_id}/cancel")
    gateway.services.training.store.delete_jobs_before(2**40)
    for path in ("", "/events", "/events?stream=true", "/checkpoints"):
        assert ask("GET", f"/v1/fine_tuning/jobs/{job_id}{path}")[0] == 404
    assert ask("GET", "/v1/fine_tuning/jobs")[1]["data"] == []


def test_a_job_has_succeeded_once_its_model_is_loaded_or_deleted(gateway, ask, job):
    job_id = ask("POST", "/v1/fine_tuning/jobs", {**job, "suffix": "book"})[1]["id"]
    version, store = gateway.settings.models_dir / "book" / "1", gateway.services.training.store
    version.mkdir(parents=True)
    store.end(store.claim(60.0), "succeeded", "published book:1", version=1)
    assert ask("GET", f"/v1/fine_tuning/jobs/{job_id}")[1]["status"] == "running"
    version.rmdir()
    assert ask("GET", f"/v1/fine_tuning/jobs/{job_id}")[1]["status"] == "succeeded"


def test_jobs_are_filtered_by_their_metadata(ask, job):
    job_id = ask("POST", "/v1/fine_tuning/jobs", {**job, "metadata": {"by": "me", "a'": "1"}})[1]["id"]
    found = {
        query: [each["id"] for each in ask("GET", f"/v1/fine_tuning/jobs?{query}")[1]["data"]]
        for query in ("metadata[by]=me", "metadata[by]=me&metadata[a%27]=1", "metadata[by]=you", "metadata[none]=")
    }
    assert list(found.values()) == [[job_id], [job_id], [], []]
    for key in ('"', "%5C"):
        status, refusal = ask("GET", f"/v1/fine_tuning/jobs?metadata[{key}]=1")
        assert (status, refusal["error"]["param"]) == (400, "metadata")


def test_text_that_postgresql_cannot_store_is_refused(ask, job):
    """The character NUL, wherever it is."""
    assert ask("GET", "/v1/files/a%00")[0] == 404
    for path in ("/v1/files?after=%00", "/v1/fine_tuning/jobs?metadata[%00]=1"):
        assert ask("GET", path)[0] == 400
    for field in ({"training_file": "\0"}, {"validation_file": "a\0"}, {"metadata": {"a": "\0"}}):
        assert ask("POST", "/v1/fine_tuning/jobs", {**job, **field})[0] == 400


def test_an_audit_log_that_cannot_be_written_fails_no_request(gateway, ask, job, monkeypatch, caplog):
    """OpenAI's client repeats a request that fails with 500, and each would queue one more job."""
    broken = gateway.services.training.settings.model_copy(update={"audit_file": Path("/nonexistent/audit.jsonl")})
    monkeypatch.setattr(gateway.services, "training", replace(gateway.services.training, settings=broken))
    assert ask("POST", "/v1/fine_tuning/jobs", job)[0] == 200
    assert "train: done, but the audit log cannot be written: No such file or directory" in caplog.text


def test_streams_of_events_are_limited(gateway, ask, job):
    job_id = ask("POST", "/v1/fine_tuning/jobs", job)[1]["id"]
    with contextlib.suppress(Overloaded):
        while True:
            gateway.services.training.streams.add("")
    assert ask("GET", f"/v1/fine_tuning/jobs/{job_id}/events?stream=true")[0] == 429


@pytest.mark.parametrize(
    ("error", "code"), [(None, "shutting_down"), (OperationalError("SELECT", {}, OSError("lost")), None)]
)
def test_a_stream_of_events_that_fails_ends_with_an_error(gateway, job, ask, monkeypatch, error, code):
    """Its end alone would be that of the job to a client that does not wait for [DONE]."""
    job_id = ask("POST", "/v1/fine_tuning/jobs", job)[1]["id"]
    response = gateway.test_client().get(f"/v1/fine_tuning/jobs/{job_id}/events?stream=true")
    chunks = response.iter_encoded()
    assert b"the job is queued" in next(chunks)
    if error is None:
        monkeypatch.setattr(gateway.services, "is_draining", True)
    else:
        monkeypatch.setattr(JobStore, "job", Mock(side_effect=error))
    last = b"".join(chunks).removeprefix(b"data: ")
    assert json.loads(last)["error"]["code"] == code
    response.close()


@pytest.mark.parametrize(
    "fields",
    [
        *({"settings": {name: value}} for name, value in (("units", 8192), ("max_minutes", 1e9))),
        *({"settings": {"max_minutes": float("inf")}}, {"hyperparameters": {"n_epochs": 10**9}}),
        *({"suffix": suffix} for suffix in ("../lstm", "lstm\n", "-rf")),
        *({"model": "../../etc/passwd"}, {"model": "--help"}, {"metadata": {"a": "x" * 1000}}),
    ],
    ids=str,
)
def test_no_setting_reads_a_file_or_exceeds_a_limit(ask, job, fields):
    """Another model is one that is served, and here none is."""
    status, refusal = ask("POST", "/v1/fine_tuning/jobs", {**job, **fields})
    assert status == (503 if "model" in fields else 400), refusal
    assert len(json.dumps(refusal)) < 2000


@pytest.mark.parametrize(
    "epochs",
    [
        {"settings": {"max_minutes": None, "epochs": 10**9}},
        {"settings": {"epochs": 3}},
        {"hyperparameters": {"n_epochs": 3}},
    ],
    ids=["no limit", "epochs", "n_epochs"],
)
def test_a_job_without_a_time_limit_gets_one(ask, job, epochs):
    """A number of epochs replaces that of the recipe."""
    refusal = ask("POST", "/v1/fine_tuning/jobs", {**job, **epochs})[1]
    assert "and 60 requested" in refusal["error"]["message"]


def test_a_field_that_is_too_large_is_no_body_that_is(ask):
    status, body = ask("POST", "/v1/files", *multipart(b"text", purpose="a" * 600_000))
    assert status == 413
    assert "the form must have at most 500000 bytes besides its file" in body["error"]["message"]


@pytest.mark.parametrize("address", [{"host": "0.0.0.0"}, {"published_host": "192.0.2.1"}])
def test_without_keys_nobody_trains_but_on_loopback(tmp_path, address):
    app = create_app(Settings(models_dir=tmp_path, training_dir=tmp_path / "training", **address))
    body, headers = multipart(b"text")
    client = app.test_client()
    refused = client.post("/v1/files", data=body, headers=headers)
    assert (refused.status_code, refused.json["error"]["code"]) == (403, "missing_role")
    assert "without API keys, only a server on loopback trains" in refused.json["error"]["message"]
    assert client.post("/v1/fine_tuning/jobs", json={}).status_code == 403
    assert "This server has no API keys" in client.get("/models").text
    assert list((tmp_path / "training/files").glob("*")) == []
    app.close()


@pytest.fixture
def acme(tmp_path):
    """A gateway with API keys, and a job of the tenant acme.

    Attributes:
        app: The gateway.
        client: Sends requests with the tenant's key.
        job: The id of the job.
        revoke: Revokes the key.
    """
    keys = tmp_path / "keys.json"
    key, presented = add_key(keys, "acme", None, KeyLimits(), ("train",))
    app = create_app(Settings(models_dir=tmp_path, training_dir=tmp_path / "jobs", keys_file=keys))
    client = app.test_client()
    client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {presented}"
    body, headers = multipart(b"text")
    file = client.post("/v1/files", data=body, headers=headers).json
    job = {"model": "characters-3-minutes", "training_file": file["id"], "suffix": "lstm"}
    created = client.post("/v1/fine_tuning/jobs", json=job).json
    yield SimpleNamespace(app=app, client=client, job=created["id"], revoke=lambda: revoke_keys(keys, [key.id]))
    app.close()


def test_a_tenant_publishes_under_names_of_its_own(acme):
    assert acme.app.services.training.store.job("acme", acme.job).name == owned_name("acme", "lstm")


def test_a_revoked_key_ends_its_stream_of_events(acme):
    """A job may take hours, and its events have samples."""
    response = acme.client.get(f"/v1/fine_tuning/jobs/{acme.job}/events?stream=true")
    chunks = response.iter_encoded()
    assert b"the job is queued" in next(chunks)
    acme.revoke()
    last = b"".join(chunks).removeprefix(b"data: ")
    assert json.loads(last)["error"]["code"] == "invalid_api_key"
    response.close()
