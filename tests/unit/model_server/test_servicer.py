"""The gRPC services, with calls and errors that a client cannot produce at will."""

from pathlib import Path

import pytest
from google.protobuf import text_format
from grpc import StatusCode
from tensorflow_serving.apis.get_model_metadata_pb2 import GetModelMetadataRequest
from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusRequest
from tensorflow_serving.apis.model_management_pb2 import ReloadConfigRequest
from tensorflow_serving.apis.predict_pb2 import PredictRequest

from model_server.errors import InvalidArgument
from model_server.manager import Manager
from model_server.servicer import ModelServicer, PredictionServicer

MANAGER = Manager(lambda *_: None, poll_s=0.0, max_retries=0, retry_s=0.0)


class Aborted(Exception):
    """The exception that `abort` raises."""


class Context:
    """The context of a call, as gRPC passes it to a servicer."""

    def __init__(self, *, is_active=True, time_remaining=9.0):
        self.is_active = lambda: is_active
        self.time_remaining = lambda: time_remaining

    def abort(self, code, details):
        self.status = code, details
        raise Aborted


def refused(call, request, context=None):
    context = context or Context()
    with pytest.raises(Aborted):
        call(request, context)
    return context.status


def outcome(context, error=None):
    """Call Predict on a manager that raises `error`; return status, message and number of lookups."""
    asked = []

    class Lookups:
        def find(self, name):
            asked.append(name)
            raise error or AssertionError

    request = PredictRequest()
    request.model_spec.name = "tiny"
    return *refused(PredictionServicer(Lookups()).Predict, request, context), len(asked)


@pytest.mark.parametrize(
    ("context", "code"),
    [(Context(is_active=False), StatusCode.CANCELLED), (Context(time_remaining=0.0), StatusCode.DEADLINE_EXCEEDED)],
    ids=["cancelled", "expired"],
)
def test_a_cancelled_or_expired_call_is_not_computed(context, code):
    assert outcome(context)[::2] == (code, 0)


def test_an_unexpected_error_is_internal_and_logged(caplog):
    code, text, _ = outcome(Context(), ZeroDivisionError("division by zero"))
    assert (code, text) == (StatusCode.INTERNAL, "unexpected error: ZeroDivisionError: division by zero")
    assert "Traceback" in caplog.text


@pytest.mark.parametrize("text", ["x" * 100_000, "ü" * 100_000], ids=["ascii", "two bytes each"])
def test_a_long_error_message_is_truncated_to_fit_a_header(text):
    """Clients refuse headers above 8 KiB and would report another status."""
    code, sent, _ = outcome(Context(), InvalidArgument(text))
    assert code is StatusCode.INVALID_ARGUMENT
    assert text.startswith(sent)
    assert 900 < len(sent.encode()) <= 2000


def test_a_request_without_model_spec_is_invalid():
    prediction, model = PredictionServicer(MANAGER), ModelServicer(MANAGER, Path("/models"))
    for call, request in (
        (prediction.Predict, PredictRequest()),
        (prediction.GetModelMetadata, GetModelMetadataRequest()),
        (model.GetModelStatus, GetModelStatusRequest()),
    ):
        assert refused(call, request) == (StatusCode.INVALID_ARGUMENT, "Missing ModelSpec")


@pytest.mark.parametrize("config", ["", "config { custom_model_config {} }"])
def test_a_reload_without_a_model_list_is_invalid(config):
    """An empty message is more likely a mistake than a request to serve nothing."""
    request = text_format.Parse(config, ReloadConfigRequest())
    code, text = refused(ModelServicer(MANAGER, Path("/models")).HandleReloadConfigRequest, request)
    assert (code, MANAGER.config) == (StatusCode.INVALID_ARGUMENT, None)
    assert text.startswith("ServerModelConfig type not supported by HandleReloadConfigRequest. ")
