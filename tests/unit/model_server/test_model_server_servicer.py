"""The gRPC services, with calls and errors that a client cannot produce at will."""

from types import SimpleNamespace

import grpc
import pytest
from tensorflow_serving.apis.predict_pb2 import PredictRequest

from model_server.errors import InvalidRequest
from model_server.servicer import PredictionServicer


class Aborted(Exception):
    """The exception that `abort` raises."""


class Context:
    """The context of a call, as gRPC passes it to a servicer."""

    def __init__(self, *, is_active: bool = True, time_remaining: float = 9.0) -> None:
        self.is_active = lambda: is_active
        self.time_remaining = lambda: time_remaining
        self.status: tuple[grpc.StatusCode, str] | None = None

    def abort(self, code: grpc.StatusCode, details: str) -> None:
        """End the call with a status."""
        self.status = code, details
        raise Aborted


def outcome(context: Context, error: Exception | None = None) -> tuple[grpc.StatusCode | None, str, int]:
    """Call Predict on a repository that raises `error`; return status, message and number of lookups."""
    asked = []

    def find(name: str) -> object:
        asked.append(name)
        raise error or AssertionError

    servicer = PredictionServicer(SimpleNamespace(find=find))
    request = PredictRequest()
    request.model_spec.name = "tiny"
    with pytest.raises(Aborted):
        servicer.Predict(request, context)
    return *context.status, len(asked)


@pytest.mark.parametrize(
    ("context", "code"),
    [
        (Context(is_active=False), grpc.StatusCode.CANCELLED),
        (Context(time_remaining=0.0), grpc.StatusCode.DEADLINE_EXCEEDED),
    ],
    ids=["cancelled", "expired"],
)
def test_a_cancelled_or_expired_call_is_not_computed(context: Context, code: grpc.StatusCode):
    """Its client may have left while it waited in the queue."""
    assert outcome(context)[::2] == (code, 0)


def test_an_unexpected_error_is_internal_and_logged(caplog: pytest.LogCaptureFixture):
    """The client gets its type and message, the log the whole traceback."""
    code, text, _ = outcome(Context(), ZeroDivisionError("division by zero"))
    assert (code, text) == (grpc.StatusCode.INTERNAL, "unexpected error: ZeroDivisionError: division by zero")
    assert "Traceback" in caplog.text


@pytest.mark.parametrize("text", ["x" * 100_000, "ü" * 100_000], ids=["ascii", "two bytes each"])
def test_a_long_error_message_is_truncated_to_fit_a_header(text: str):
    """Clients refuse headers above 8 KiB and would report another status."""
    code, sent, _ = outcome(Context(), InvalidRequest(text))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert text.startswith(sent)
    assert 900 < len(sent.encode()) <= 2000
