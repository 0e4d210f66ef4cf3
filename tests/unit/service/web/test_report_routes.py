"""The endpoint of reports."""

import pytest

BODY = {"generated": ["anna", "bertha"], "training": ["anna", "berta"]}


pytestmark = pytest.mark.usefixtures("path_of_sdk")


def test_a_report_compares_lists(site):
    response = site.client.post("/v1/reports", json={**BODY, "html": True})
    report = response.get_json()
    assert response.status_code == 200
    assert (report["object"], report["schema_version"], report["held_out"]) == ("report", 1, None)
    assert (report["generated"]["novel"], report["training"]["records"]) == (1, 2)
    assert report["html"].startswith("<!doctype html>")
    assert "novel" in report["summary"]


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"generated": []}, "generated", "generated must have at least 1 item"),
        ({"generated": [{"text": "a"}, "b"]}, "generated", "generated[1] must be an object, got 'b'"),
        ({"training": None}, "training", "training must be given, or training_file"),
        ({"training_file": "file-1"}, "training", "training must be absent with training_file"),
        ({"held_out": ["a"], "held_out_file": "file-1"}, "held_out", "held_out must be absent with held_out_file"),
        ({"near": 1.5}, "near", "near must be less than or equal to 1, got 1.5"),
        ({"validator": "os:system"}, "validator", "unknown field 'validator'"),
        ({"generated": ["a"] * 100_001}, "generated", "generated must have at most 100000 records, got 100001"),
    ],
)
def test_an_invalid_field_is_named(site, fields, param, message):
    response = site.client.post("/v1/reports", json={**BODY, **fields})
    error = response.get_json()["error"]
    assert (response.status_code, error["param"]) == (400, param)
    assert message in error["message"]


def test_a_record_may_have_integers_of_any_size(site):
    large = 10**30
    response = site.client.post("/v1/reports", json={"generated": [{"id": large}], "training": [{"id": 1}]})
    assert (response.status_code, response.get_json()["generated"]["novel"]) == (200, 1)


def test_files_need_a_server_that_trains(site):
    response = site.client.post("/v1/reports", json={"generated": ["a"], "training_file": "file-1"})
    assert response.status_code == 404
    assert "SOSTENUTO_TRAINING_DIR" in response.get_json()["error"]["message"]


def test_no_report_is_begun_during_shutdown(site):
    site.parts.is_draining = True
    assert site.client.post("/v1/reports", json=BODY).status_code == 503
