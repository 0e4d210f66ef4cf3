"""The OpenAPI document matches the API: a fuzzer calls what it describes, and it describes every endpoint."""

import copy
import json
import re
import subprocess
import sys
from urllib.parse import urlencode

import pytest
import requests

from service.web.endpoint import ENDPOINTS, TAGS, TRAINING
from service.web.openapi import EXAMPLE_REQUESTS, EXAMPLE_RESPONSES, openapi_document
from tests.conftest import MODEL_NAMES
from tests.documents import fits
from tests.pages import DARK_PHONE, Reference

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "ignored_auth",
)
# Long completions would only take time.
BOUNDS = {"max_tokens": 40, "max_request_tokens": 400, "max_search_tokens": 400, "max_timeout_s": 20}


def test_the_gateway_serves_its_openapi_document(gateway):
    status, document = gateway.get("/openapi.json")
    assert status == 200
    assert document == openapi_document()
    assert document["openapi"].startswith("3.1")
    status, _, page = gateway.ask("GET", "/docs/")
    assert status == 200
    assert b"swagger-ui-bundle.js" in page
    elsewhere = re.findall(rb"https?://(?!127\.0\.0\.1)[^\"' ]+", page)
    assert elsewhere == []
    for part in ("swagger-ui-bundle.js", "swagger-ui.css"):
        status, headers, content = gateway.ask("GET", f"/docs/{part}")
        assert (status, len(content) > 100) == (200, True)
    for path in ("/docs",):
        status, headers, _ = gateway.ask("GET", path)
        assert (status, headers["Location"]) == (302, "docs/")


# Of the others, test_model_changes.py compares the responses.
SERVED = [
    endpoint
    for endpoint in ENDPOINTS
    if endpoint.has_body and endpoint.tag != TRAINING and (endpoint.method == "GET" or "train" not in endpoint.roles)
]


@pytest.mark.parametrize("endpoint", SERVED, ids=lambda e: e.path)
def test_every_example_response_has_the_fields_of_a_real_one(gateway, endpoint):
    if endpoint.request:
        first, *others = EXAMPLE_REQUESTS[endpoint.rule].values()
        model = {"model": "rnn"} if "model" in first else {}
        status, response = gateway.post({**first, **model}, endpoint.path)
        assert all(gateway.post({**other, **model}, endpoint.path)[0] == 200 for other in others)
    else:
        query = {parameter.name: parameter.example for parameter in endpoint.query if parameter.example is not None}
        if "model" in query:
            query["model"] = "rnn"
        status, response = gateway.get(f"{endpoint.path.replace('{name}', 'rnn')}?{urlencode(query)}")
    assert status == 200
    shown = EXAMPLE_RESPONSES[endpoint.rule]
    if endpoint.path == "/v1/models":
        response["data"] = [_trained(model, shown["data"][0]) for model in response["data"] if model["id"] == "rnn"]
    if endpoint.path == "/v1/models/{name}":
        response["versions"] = [_trained(version, shown["versions"][0]) for version in response["versions"]]
        response = _trained(response, shown) | {"labels": shown["labels"], "shares": shown["shares"]}
    if endpoint.path == "/v1/score":
        response["data"] = [_trained(score, shown["data"][0]) for score in response["data"]]
    if endpoint.path == "/v1/reports":
        # Shortened in the example.
        response |= {"training": shown["training"], "generated": shown["generated"]}
    if endpoint.path.endswith("/tokenizer.json"):
        # Its names are the tokens.
        assert set(map(type, response["model"].pop("vocab").values())) == {int}
        response["model"]["vocab"] = shown["model"]["vocab"]
    assert fits(response, shown)


def _trained(model, shown):
    """Give a model that was not trained, whose results of training are null or empty, those of the example."""
    return {name: shown.get(name) if value in (None, []) else value for name, value in model.items()}


def test_every_example_response_of_training_has_the_fields_of_a_real_one(start_gateway, tmp_path):
    gateway = start_gateway(training_dir=tmp_path)
    url, ids, called = f"http://127.0.0.1:{gateway.port}", {}, set()

    def call(rule, **given):
        method, path = rule.split(" ")
        response = requests.request(method, url + path.format(**ids), timeout=60, **given)
        assert response.status_code == 200, response.text
        called.add(rule)
        # The fuzzer below checks their types; many are null until a trainer runs.
        assert response.json().keys() == EXAMPLE_RESPONSES[rule].keys()
        return response.json()

    upload = {"files": {"file": ("book.txt", b"text")}, "data": {"purpose": "fine-tune"}}
    ids["file_id"] = call("POST /v1/files", **upload)["id"]
    call("GET /v1/files")
    call("GET /v1/files/{file_id}")
    new = {"model": "characters", "training_file": ids["file_id"]}
    ids["job_id"] = call("POST /v1/fine_tuning/jobs", json=new)["id"]
    call("GET /v1/fine_tuning/jobs")
    call("GET /v1/fine_tuning/jobs/{job_id}")
    call("GET /v1/fine_tuning/jobs/{job_id}/events")
    call("GET /v1/fine_tuning/jobs/{job_id}/checkpoints")
    for action in ("pause", "resume", "cancel"):
        call(f"POST /v1/fine_tuning/jobs/{{job_id}}/{action}")
    call("DELETE /v1/files/{file_id}")
    assert called == {endpoint.rule for endpoint in ENDPOINTS if endpoint.has_body and endpoint.tag == TRAINING}


@pytest.mark.parametrize("look", [{}, pytest.param(DARK_PHONE, marks=pytest.mark.slow)], ids=["desktop", "phone"])
def test_the_reference_groups_endpoints_and_shows_titles_and_examples(open_page, gateway, look):
    page = open_page(Reference, gateway, **look)
    assert [tag.split("\n")[0] for tag in page.page.locator(".opblock-tag").all_inner_texts()] == list(TAGS)
    titles = [title.inner_text() for title in page.page.locator(".opblock-summary-description").all()]
    assert sorted(titles) == sorted(endpoint.summary for endpoint in ENDPOINTS)
    page.page.locator("#operations-Completions-post_v1_completions .opblock-summary-control").click()
    shown = page.page.locator("#operations-Completions-post_v1_completions .body-param__example")
    for title, example in EXAMPLE_REQUESTS["POST /v1/completions"].items():
        page.page.locator(".examples-select-element").select_option(title)
        assert json.loads(shown.inner_text()) == example
    assert page.fits()
    page.click("#operations-Completions-post_v1_completions .opblock-summary-control")
    body = json.dumps({"model": "lstm", "prompt": "It was", "max_tokens": 5})
    assert page.execute("Completions-post_v1_completions", body) == "200"
    # The content security policy allows no other host.
    assert page.hosts <= {page.url.rstrip("/"), "data:"}


def test_the_quick_start_runs_the_request_that_it_shows(open_page, gateway):
    """With the first model that is served; an error is shown where the text would be."""
    page = open_page(Reference, gateway)
    page.page.get_by_role("button", name="JavaScript").click()
    shown = page.read("#code-text")
    body = json.loads(re.search(r"JSON.stringify\((.*)\),\n\}", shown, re.DOTALL).group(1))
    assert body["model"] == gateway.get("/v1/models")[1]["data"][0]["id"]
    assert f'fetch("{page.url}v1/completions"' in shown
    assert page.read("#base-url") == f"{page.url}v1"
    page.click("#try")
    page.page.locator("#try[aria-disabled=false]").wait_for()
    assert page.page.locator("#response").text_content() == gateway.post(body)[1]["choices"][0]["text"]
    full = {"status": 429, "json": {"error": {"message": "the queue is full", "code": "overloaded"}}}
    page.page.route("**/v1/completions", lambda route: route.fulfill(**full))
    page.click("#try")
    page.page.locator("#try[aria-disabled=false]").wait_for()
    assert page.page.locator("#response").text_content() == "The queue is full."
    assert page.page.evaluate("document.activeElement.id") == "try"
    page.excuse_failed_loads()
    assert page.violations() == []


@pytest.mark.parametrize("num_examples", [20, pytest.param(100, marks=[pytest.mark.slow, pytest.mark.timeout(900)])])
def test_every_response_to_a_fuzzer_conforms_to_the_openapi_document(start_gateway, tmp_path, num_examples):
    gateway = start_gateway(**BOUNDS, training_dir=tmp_path / "training")
    document = copy.deepcopy(openapi_document())
    for body in ("CompletionRequest", "EmbeddingsRequest", "TokenizeRequest", "DetokenizeRequest"):
        # Served models only; otherwise hardly any request would get beyond the 404 of an unknown model.
        fields = document["components"]["schemas"][body]["properties"]
        fields["model"] = {"enum": MODEL_NAMES}
        if "timeout_s" in fields:
            # A shorter timeout returns 504, as intended.
            fields["timeout_s"] = {"type": "number", "minimum": 15, "maximum": 20}
    (tmp_path / "openapi.json").write_text(json.dumps(document), encoding="utf-8")
    url = f"http://127.0.0.1:{gateway.port}"
    command = [sys.executable, "-m", "schemathesis.cli", "run", "openapi.json", "--url", url]
    # One worker: Hypothesis calls `ast.parse`, which fails at times in threads of Python 3.11.
    command += ["--checks", ",".join(CHECKS), "--phases", "examples,coverage,fuzzing", "--workers", "1", "--seed", "1"]
    command += ["--max-examples", str(num_examples), "--generation-database", "none", "--no-color"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=800, check=False)
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
    assert gateway.get("/readyz")[0] == 200
