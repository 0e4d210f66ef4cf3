"""The endpoint of scores: how probable texts are."""

from contextlib import ExitStack

import orjson
from flask import Response

from service.api.requests import ScoreRequest
from service.api.responses import ScoresObject
from service.web.endpoint import COMPLETIONS, MODEL_ERRORS, Endpoint, Services, json_response, start_request


@Endpoint(
    "POST /v1/score", COMPLETIONS, "Score texts", (*MODEL_ERRORS, 410), request=ScoreRequest, response=ScoresObject
)
def score(services: Services) -> Response:
    """Return how surprising each text is to a model: its negative log probability in nats.

    `tokens` returns the surprisal of each token, `ratio_to` the log-likelihood ratio to another model, and
    `carry_state` scores each text after those before it.
    """
    with ExitStack() as stack:
        processor = start_request(services, ScoreRequest, services.engine.start_score, stack)
        request = processor.request
        response = {"object": "list", "data": processor.results(), "whole": processor.is_whole}
        response |= {"model": request.model.ref.name, "version": request.model.ref.number}
        response["system_fingerprint"] = request.fingerprint
        if processor.body.carry_state:
            response["state"] = processor.resume_token()
        response["usage"] = dict.fromkeys(("prompt_tokens", "total_tokens"), processor.num_prompt_tokens)
        return json_response(orjson.dumps(response))
