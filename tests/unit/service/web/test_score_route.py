"""`/v1/score` over HTTP: the response, and what it takes of memory."""

import orjson

from tests.unit.service.engines import CHARACTERS


def test_a_response_has_scores_and_the_usage_of_both_models(site, caplog):
    caplog.set_level("INFO", "service.access")
    answer = site.post("/v1/score", input=["abc", "d"], ratio_to="characters backward", whole=True, tokens=True)
    assert answer.status_code == 200, answer.json
    assert answer.json.keys() == {"object", "data", "whole", "model", "version", "system_fingerprint", "usage"}
    assert [score["index"] for score in answer.json["data"]] == [0, 1]
    assert (answer.json["model"], answer.json["whole"]) == ("characters", True)
    assert answer.json["usage"] == {"prompt_tokens": 8, "total_tokens": 8}
    assert [record.prompt_tokens for record in caplog.records if record.name == "service.access"] == [8]
    assert site.memory.num_bytes == 0


def test_a_resume_token_comes_with_carried_state(site):
    body = {"input": "abc", "carry_state": True}
    body["state"] = site.post("/v1/score", **body).json["state"]
    status, content = site.send(orjson.dumps(body), "/v1/score")
    assert (status, orjson.loads(content)["data"][0]["num_tokens"]) == (200, len(CHARACTERS.encode("abc")))


def test_what_needs_more_memory_than_there_is_is_refused(make_site):
    """One request for two models holds what both need."""
    body = {"input": ["a" * 500] * 4, "model": "characters"}
    site = make_site(memory_bytes=180_000)
    assert site.post("/v1/score", **body).status_code == 200
    answer = site.post("/v1/score", **body, ratio_to="characters", tokens=True)
    assert (answer.status_code, site.memory.num_bytes) == (400, 0), answer.json
    assert "bytes of memory" in answer.json["error"]["message"]
