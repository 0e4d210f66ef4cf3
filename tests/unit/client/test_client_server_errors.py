"""Every error of the service has its class here, by which programs tell it apart."""

from __future__ import annotations

from typing import Any

import pytest
import requests

import ostinato
from ostinato._responses import refusal, stream_error
from service import errors as service_errors
from service.errors import ClientGone, GatewayError, ServerBusy, StateRefused

# Nobody is there to be told; what the gateway itself says of a server that is busy is that none answers.
UNSEEN, SAME = (
    {ClientGone, StateRefused},
    {
        ServerBusy: "BackendUnavailable",
        service_errors.InvalidResponse: "BackendUnavailable",
        service_errors.InvalidRequest: "BadRequest",
    },
)
ALL = [
    kind
    for kind in vars(service_errors).values()
    if isinstance(kind, type) and issubclass(kind, GatewayError) and kind not in {GatewayError, *UNSEEN}
]


def answered(error: GatewayError) -> requests.Response:
    """Make the answer that the service would give."""
    response = requests.Response()
    response.status_code, response.url = error.status, "http://127.0.0.1/"
    response.headers.update(error.headers())
    response._content = requests.compat.json.dumps(error.body()).encode()
    return response


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_each_error_of_the_service_has_a_class_of_its_name(kind: type[GatewayError]) -> None:
    """By status, type and code of its answer."""
    made = refusal(answered(kind("no")))
    assert type(made) is getattr(ostinato, SAME.get(kind, kind.__name__))


@pytest.mark.parametrize("kind", [kind for kind in ALL if kind.code], ids=lambda kind: kind.__name__)
def test_it_has_the_same_class_in_a_stream(kind: type[GatewayError]) -> None:
    """By type and code alone."""
    made = stream_error(kind("no").body()["error"], {})
    assert type(made) is getattr(ostinato, SAME.get(kind, kind.__name__))


def test_an_error_has_what_had_come_of_the_texts() -> None:
    """Whoever has a state goes on with it; nonsense in its place is no reason to lose the error."""
    error = service_errors.DeadlineExceeded("late")
    error.rest = {"choices": [{"index": 0, "text": "so far", "finish_reason": None, "state": "s1"}], "usage": {}}
    made = refusal(answered(error))
    assert (made.text, made.state, made.choices[0].finish_reason) == ("so far", "s1", None)
    rests: list[Any] = [{"choices": 5}, {"choices": [{}]}, {}]
    for error.rest in rests:
        assert refusal(answered(error)).choices == ()
