"""Errors: their classes, attributes and messages; every error of the service has a class in the client."""

import pickle

import pytest
import requests

import sostenuto
from service import errors as service_errors
from service.errors import STATE_CODES, ClientGone, GatewayError, StateRefused
from sostenuto import APIError, Choice, Client, SostenutoError
from sostenuto._responses import refusal as refusal_of
from sostenuto._responses import stream_error
from tests.unit.client.scripted_responses import answer_bytes, answer_json, refusal

EXPORTED = [getattr(sostenuto, name) for name in sostenuto.__all__]
ALL = [thing for thing in EXPORTED if isinstance(thing, type) and issubclass(thing, SostenutoError)]


CLASSES = {400: "BadRequest", 401: "Unauthorized", 403: "Forbidden", 404: "NotFound", 405: "MethodNotAllowed"}
CLASSES |= {408: "BodyTimeout", 409: "Conflict", 413: "BodyTooLarge", 422: "BadRequest", 429: "TooManyRequests"}
CLASSES |= {500: "InternalError", 502: "ServerError", 503: "ServiceUnavailable", 504: "DeadlineExceeded"}


@pytest.mark.parametrize(("status", "name"), CLASSES.items())
def test_each_status_raises_its_error_class(server, status, name):
    server.script = [refusal(status, "no")]
    with Client(server.url, max_retries=0) as client, pytest.raises(APIError) as caught:
        client.models()
    assert (type(caught.value).__name__, caught.value.status) == (name, status)


def test_an_error_has_the_servers_message_and_fields(client, server):
    fields = {"type": "invalid_request_error", "param": "top_p", "code": "out_of_range"}
    server.script = [refusal(400, "top_p must be\nat most 1, got 2.", headers={"x-request-id": "req-9"}, **fields)]
    with pytest.raises(sostenuto.BadRequest) as caught:
        client.generate("a", model="tiny", top_p=2)
    error = caught.value
    assert str(error) == "top_p must be at most 1, got 2 (HTTP 400, request req-9): change the request"
    assert error.message == "top_p must be at most 1, got 2"
    assert (error.type, error.param, error.code) == ("invalid_request_error", "top_p", "out_of_range")
    assert error.request_id == "req-9"
    assert not error.retryable


@pytest.mark.parametrize("content", [b"<html>oops</html>", b'"text"', b"{}", b'{"error": null}', b""])
def test_a_proxys_error_page_keeps_its_status(server, content):
    server.script = [answer_bytes(content, "text/html", 502)]
    client = Client(server.url, max_retries=0)
    with client, pytest.raises(sostenuto.ServerError, match=r"^Bad Gateway") as caught:
        client.models()
    assert "<" not in str(caught.value)


def test_an_error_field_that_is_a_string_is_the_message(client, server):
    """Some servers send `{"error": "words"}`."""
    server.script = [answer_json({"error": "no such thing"}, 404)]
    with pytest.raises(sostenuto.NotFound, match=r"^no such thing"):
        client.models()


@pytest.mark.parametrize(
    ("content", "content_type"),
    [(b"<html>Hello</html>", "text/html"), (b"{", "application/json"), (b"[]", "application/json")],
)
def test_a_response_that_is_no_json_object_is_unexpected(client, server, content, content_type):
    server.script = [answer_bytes(content, content_type)]
    with pytest.raises(sostenuto.UnexpectedResponse, match=f"returned 200 with {content_type}.* base_url"):
        client.models()


def test_a_redirect_is_not_followed(client, server):
    """A redirect would turn a POST into a GET; the error names the target instead."""
    server.script = [answer_bytes(b"", "text/html", 301, {"Location": "https://example.test/v1/models"})]
    with pytest.raises(sostenuto.UnexpectedResponse, match=r"redirects to https://example\.test.* base_url"):
        client.models()
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("error", "name", "status", "retryable"),
    [
        ({"message": "no", "type": "invalid_request_error"}, "BadRequest", None, False),
        ({"message": "no", "type": "rate_limit_error"}, "TooManyRequests", None, True),
        ({"message": "no", "type": "overloaded_error"}, "ServiceUnavailable", None, True),
        ({"message": "no", "type": "never_heard_of"}, "ServerError", None, True),
        ({"message": "no", "code": 503}, "ServiceUnavailable", 503, True),
        ({"message": "no", "code": 400}, "BadRequest", 400, False),
        ({"message": "no", "type": None, "code": "model_gone"}, "ServerError", None, True),
        ({"message": "no", "type": None, "code": "queue_full"}, "Overloaded", None, True),
        ("no", "ServerError", None, True),
    ],
)
def test_an_error_in_a_stream_gets_its_class_from_type_or_code(error, name, status, retryable):
    """The class decides whether it is retryable: headers for retries were sent when the stream began."""
    made = stream_error(error, {"x-request-id": "req-9", "retry-after": "7", "x-should-retry": "true"})
    assert (type(made).__name__, made.status, made.message, made.request_id) == (name, status, "no", "req-9")
    assert (made.retryable, made.retry_after_s) == (retryable, None)


def test_a_password_in_the_base_url_is_not_shown():
    with Client("http://me:secret@127.0.0.1:1/x", max_retries=0) as client:
        with pytest.raises(sostenuto.ConnectionFailed) as caught:
            client.models()
        assert repr(client) == "Client('http://127.0.0.1:1/x')"
    assert "secret" not in str(caught.value)
    assert "http://127.0.0.1:1/x/v1/models" in str(caught.value)


@pytest.mark.parametrize(
    "answer",
    [
        answer_bytes(b"hello", "text/html"),
        answer_bytes(b"", "text/html", 301, {"Location": "/"}),
        answer_bytes(b"plain HTTP request was sent to HTTPS port", "text/html", 400),
    ],
    ids=["page", "redirect", "TLS"],
)
def test_no_message_about_a_response_shows_a_password(server, answer):
    server.script = [answer]
    with Client(server.url.replace("://", "://me:p@ssword@"), max_retries=0) as client:
        with pytest.raises(sostenuto.SostenutoError) as caught:
            client.models()
        assert repr(client) == f"Client({server.url!r})"
    assert str(caught.value).startswith(f"{server.url}/v1/models ")


def test_a_connection_error_mentions_the_proxy(monkeypatch, server):
    """Users may not know that their environment sets one."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("no_proxy", "")
    client = Client(server.url, max_retries=0)
    with client, pytest.raises(sostenuto.ConnectionFailed, match="through the proxy"):
        client.models()


def test_a_missing_file_of_certificates_is_an_invalid_argument(monkeypatch):
    """`requests` raises an OSError, of which the command line would say that its output cannot be written."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/no/such.pem")
    client = Client("https://127.0.0.1:1")
    with client, pytest.raises(sostenuto.InvalidArgument, match=r"/no/such\.pem\): check REQUESTS_CA_BUNDLE"):
        client.models()


def test_an_invalid_host_raises_invalid_argument():
    with Client("http://a..b", max_retries=0) as client, pytest.raises(sostenuto.InvalidArgument, match=r"a\.\.b"):
        client.models()


@pytest.mark.parametrize(
    "answer",
    [
        {"choices": [], "usage": [1]},
        {"choices": []},
        {"choices": [{"index": 0, "text": "", "logprobs": [1]}]},
        {"data": []},
        {"data": [{"embedding": [1]}, {"embedding": [2]}]},
    ],
)
def test_responses_of_another_shape_are_unexpected(client, server, answer):
    server.script = [answer_json(answer)]
    ask = client.embed if "data" in str(answer) else client.score
    with pytest.raises(sostenuto.UnexpectedResponse, match="base_url"):
        ask("a", model="tiny")


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_errors_survive_pickling(kind):
    error = kind("a line")
    vars(error).update(choices=(Choice(0, "so far", None, "a state"),), status=400)
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), vars(copy)) == (kind, "a line", vars(error))
    assert (copy.text, copy.state) == ("so far", "a state")


def test_the_class_tree_in_the_docstring_is_complete():
    drawn = sostenuto._errors.__doc__ or ""
    assert {kind.__name__ for kind in ALL} == {word for word in drawn.split() if hasattr(sostenuto, word)}
    above = []
    for line in drawn.splitlines():
        if hasattr(sostenuto, name := line.strip("│├└─ ").partition(" ")[0]):
            kind, depth = getattr(sostenuto, name), line.index(name) // 4 - 1
            del above[depth:]
            assert not above or above[-1] in kind.__bases__
            above.append(kind)


# The client never receives the first two; the gateway reports busy and invalid backends as unavailable.
UNSEEN = {ClientGone, StateRefused}
BUSY = (service_errors.ServerBusy, service_errors.BatchingConflict, service_errors.InvalidResponse)
SAME = {service_errors.InvalidRequest: "BadRequest", **dict.fromkeys(BUSY, "BackendUnavailable")}
OF_THE_SERVICE = [
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


@pytest.mark.parametrize("kind", OF_THE_SERVICE, ids=lambda kind: kind.__name__)
def test_each_error_of_the_service_has_a_client_class_of_the_same_name(kind):
    expected = getattr(sostenuto, SAME.get(kind, kind.__name__))
    assert type(refusal_of(answered(kind("no")))) is expected
    assert not kind.code or type(stream_error(kind("no").body()["error"], {})) is expected


@pytest.mark.parametrize("code", STATE_CODES)
def test_each_reason_to_refuse_a_resume_token_is_the_code_of_one_class(code):
    error = StateRefused("no", code)
    for raised in (refusal_of(answered(error)), stream_error(error.body()["error"], {})):
        assert (type(raised), raised.code) == (sostenuto.StateRefused, code)


def test_an_error_has_the_choices_so_far():
    error = service_errors.DeadlineExceeded("late")
    error.rest = {"choices": [{"index": 0, "text": "so far", "finish_reason": None, "state": "s1"}], "usage": {}}
    made = refusal_of(answered(error))
    assert (made.text, made.state, made.choices[0].finish_reason) == ("so far", "s1", None)
    rests = [{"choices": 5}, {"choices": [{}]}, {}]
    for error.rest in rests:
        assert refusal_of(answered(error)).choices == ()
