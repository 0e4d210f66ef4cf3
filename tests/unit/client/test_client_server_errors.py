"""Every error of the service has an exception class in the client."""

import pytest
import requests

import sostenuto
from service import errors as service_errors
from service.errors import STATE_CODES, ClientGone, GatewayError, StateRefused
from sostenuto._responses import refusal, stream_error

# The client never receives the first two; the gateway reports busy and invalid backends as unavailable.
UNSEEN = {ClientGone, StateRefused}
BUSY = (service_errors.ServerBusy, service_errors.BatchingConflict, service_errors.InvalidResponse)
SAME = {service_errors.InvalidRequest: "BadRequest", **dict.fromkeys(BUSY, "BackendUnavailable")}
ALL = [
    kind
    for kind in vars(service_errors).values()
    if isinstance(kind, type) and issubclass(kind, GatewayError) and kind not in {GatewayError, *UNSEEN}
]


def answered(error):
    """Return the response that the service would send."""
    response = requests.Response()
    response.status_code, response.url = error.status, "http://127.0.0.1/"
    response.headers.update(error.headers())
    response._content = requests.compat.json.dumps(error.body()).encode()
    return response


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_each_error_of_the_service_has_a_client_class_of_the_same_name(kind):
    expected = getattr(sostenuto, SAME.get(kind, kind.__name__))
    assert type(refusal(answered(kind("no")))) is expected
    assert not kind.code or type(stream_error(kind("no").body()["error"], {})) is expected


@pytest.mark.parametrize("code", STATE_CODES)
def test_each_reason_to_refuse_a_resume_token_is_the_code_of_one_class(code):
    error = StateRefused("no", code)
    for raised in (refusal(answered(error)), stream_error(error.body()["error"], {})):
        assert (type(raised), raised.code) == (sostenuto.StateRefused, code)


def test_an_error_has_the_choices_so_far():
    error = service_errors.DeadlineExceeded("late")
    error.rest = {"choices": [{"index": 0, "text": "so far", "finish_reason": None, "state": "s1"}], "usage": {}}
    made = refusal(answered(error))
    assert (made.text, made.state, made.choices[0].finish_reason) == ("so far", "s1", None)
    rests = [{"choices": 5}, {"choices": [{}]}, {}]
    for error.rest in rests:
        assert refusal(answered(error)).choices == ()
