"""Examples in the OpenAPI document: requests to a small model, its responses (`examples.json`), an error per status.

The model is `demo` of `make run`. Long lists are shortened. Tests validate the examples and compare them with real
responses.
"""

import json
from pathlib import Path
from typing import Any

from contract.tokenizers import CharacterTokenizer
from contract.tokenizers.pretrained import tokenizer_config, tokenizer_json
from service.errors import (
    BodyTimeout,
    BodyTooLarge,
    ClientGone,
    Conflict,
    CrossOrigin,
    DeadlineExceeded,
    GatewayError,
    HostNotAllowed,
    InternalError,
    InvalidRequest,
    ModelLoading,
    ModelNotFound,
    Overloaded,
    StateRefused,
    Unauthorized,
)

_FILE = json.loads(Path(__file__).with_name("examples.json").read_text())
IN_PATH: dict[str, str] = _FILE["path"]  # by parameter in the path
UPLOAD: dict[str, str] = _FILE["upload"]
# By rule and title; the first one has the response below.
REQUESTS: dict[str, dict[str, dict[str, Any]]] = _FILE["requests"]
_TOKENIZER = CharacterTokenizer.train(["\n !"], end_token=True)
# By rule; a string in the file is the rule of an equal response.
RESPONSES: dict[str, dict[str, Any]] = {
    **{rule: _FILE["responses"].get(str(value), value) for rule, value in _FILE["responses"].items()},
    "GET /v1/models/{name}/tokenizer/tokenizer.json": tokenizer_json(_TOKENIZER),
    "GET /v1/models/{name}/tokenizer/tokenizer_config.json": tokenizer_config(_TOKENIZER),
}
STREAMS = {
    rule: "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
    for rule, events in _FILE["streams"].items()
}

# Error responses by status; each message says what the status means.
ERRORS: dict[int, GatewayError] = {
    error.status: error
    for error in (
        InvalidRequest("a field is invalid; `param` names it", param="temperature"),
        Unauthorized("the API key is missing or invalid"),
        CrossOrigin(
            "the request comes from a page of another origin, the key has not the endpoint's role, or the resume token "
            "belongs to another tenant"
        ),
        ModelNotFound("there is no such model", param="model"),
        Conflict("the state of the job or the model does not allow it, or a job needs the file or the model"),
        BodyTimeout("the body did not arrive in time"),
        StateRefused("the version of the resume token is no longer served", "state_outdated"),
        BodyTooLarge("the body exceeds the maximum size"),
        HostNotAllowed("the Host header names another server; see SOSTENUTO_ALLOWED_HOSTS"),
        Overloaded("the queue or the memory for requests is full, or a limit is reached; see Retry-After"),
        ClientGone(),
        InternalError("an internal error of the gateway or the model server"),
        ModelLoading("the model is not loaded, no model server responds, or the server is draining; see Retry-After"),
        DeadlineExceeded("the request's deadline, timeout_s, has passed"),
    )
}
