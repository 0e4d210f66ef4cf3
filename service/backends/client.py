"""A gRPC client of one model server: asynchronous calls, a few synchronous ones, and TLS."""

import contextlib
import logging
import queue
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc

from service.backends.messages import (
    get_model_status_pb2,
    model_service_pb2_grpc,
    parse_response,
    predict_pb2,
    to_proto,
)
from service.errors import (
    BackendUnavailable,
    BatchingConflict,
    ConfigurationError,
    GatewayError,
    InternalError,
    InvalidResponse,
    ModelNotFound,
    ServerBusy,
    VersionGone,
)
from service.observability.tracing import Tracing
from service.scheduling.call import Arrays, Call, OutputShapes
from service.scheduling.sequence import MAX_VOCAB_SIZE, ModelVersion
from service.settings import Settings

log = logging.getLogger(__name__)

# Called with the outputs or error of a call to this model server.
OnOutcome = Callable[[Arrays | GatewayError], None]

_OPTIONS = (
    # grpcio's default limit is 4 MB; the states of a large model at batch size 64 are larger.
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # Reconnect to a recovered model server within a second, not after a backoff of a minute.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.enable_http_proxy", 0),
)
_PREDICT = "/tensorflow.serving.PredictionService/Predict"
# Codes of calls that had no effect and may succeed when retried.
_TRANSIENT = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}
# A healthy server returns its status at once; one that times out is ejected.
_STATUS_TIMEOUT_S = 5.0
# From batching_session.cc; an unknown signature has the same code, FAILED_PRECONDITION.
_DIFFERENT_SHAPES = "have different shapes and padding is turned off"
_BATCHING_ADVICE = "it merges calls of different shapes, which then fail: start it without --enable_batching"


def backend_tls(settings: Settings) -> grpc.ChannelCredentials | None:
    """Read the TLS files of the settings; None: plaintext. Raise ConfigurationError if one is unusable."""
    ca_file, name = settings.backend_tls_ca_file, settings.backend_tls_name
    cert_file, key_file = settings.backend_tls_cert_file, settings.backend_tls_key_file
    if ca_file is None:
        if cert_file or key_file or name:
            raise ConfigurationError("SOSTENUTO_BACKEND_TLS_CA_FILE is required with the other SOSTENUTO_BACKEND_TLS_*")
        return None
    if (cert_file is None) != (key_file is None):
        raise ConfigurationError(
            "SOSTENUTO_BACKEND_TLS_CERT_FILE and SOSTENUTO_BACKEND_TLS_KEY_FILE must be set together"
        )
    # gRPC accepts any bytes and reports a failed handshake later, so the files are checked here.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        what: object = f"SOSTENUTO_BACKEND_TLS_CA_FILE={ca_file}"
        context.load_verify_locations(ca_file)
        if not context.cert_store_stats()["x509_ca"]:
            raise ConfigurationError(f"{what}: has no CA certificate")
        if cert_file is None or key_file is None:
            return grpc.ssl_channel_credentials(ca_file.read_bytes())
        what = f"SOSTENUTO_BACKEND_TLS_CERT_FILE={cert_file}, SOSTENUTO_BACKEND_TLS_KEY_FILE={key_file}"
        context.load_cert_chain(cert_file, key_file, password=_no_password)
        pem = [file.read_bytes() for file in (ca_file, key_file, cert_file)]
        return grpc.ssl_channel_credentials(*pem)
    except OSError as error:
        raise ConfigurationError(f"{what}: {error.strerror or error}") from error


def _no_password() -> str:
    raise ConfigurationError("SOSTENUTO_BACKEND_TLS_KEY_FILE: the key is encrypted; an unencrypted one is required")


@dataclass(frozen=True)
class VersionStatus:
    """The status of a version in a GetModelStatus response; `error` is the server's message, or ""."""

    version: int
    available: bool
    error: str
    loading: bool = False


class ModelServerClient:
    """A client of the model server at one address."""

    def __init__(
        self,
        address: str,
        host: str = "",
        *,
        timeout_s: float,
        max_calls: int = 1,
        tracing: Tracing | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        certified_name: str | None = None,
    ) -> None:
        """Open a channel; it connects on first use and reconnects by itself.

        Args:
            address: `host:port`.
            host: The host name that the address was resolved from.
            timeout_s: Deadline of each call.
            max_calls: Concurrent calls. Each blocks a thread: grpcio's futures cost 350 µs of CPU time per call, a
                blocked thread 230 µs (measured).
            tracing: None: no tracing.
            credentials: For TLS; None: plaintext.
            certified_name: The expected name in the server's certificate; None: the host name.
        """
        self.address, self._credentials, self._certified_name = address, credentials, certified_name or host
        self._timeout_s, self._tracing = timeout_s, tracing
        self._connect()
        self._jobs: queue.SimpleQueue[tuple[Call, OnOutcome] | None] = queue.SimpleQueue()
        # Held while a call is enqueued or the queue is drained, so that no call stays in it without an outcome.
        self._lock = threading.Lock()
        self._closed = False
        self._batching_reported = False
        self._threads = [
            threading.Thread(target=self._work, name=f"call {number}", daemon=True) for number in range(max_calls)
        ]
        for thread in self._threads:
            thread.start()

    def _connect(self) -> None:
        if self._credentials is None:
            self._channel = grpc.insecure_channel(self.address, options=_OPTIONS)
        else:
            # The certificate is issued for the host that the address was resolved from.
            override = ("grpc.ssl_target_name_override", self._certified_name)
            self._channel = grpc.secure_channel(self.address, self._credentials, (*_OPTIONS, override))
        # Responses as bytes: gRPC reports an unparsable response as INTERNAL, like a call that the backend refuses.
        self._predict_rpc = self._channel.unary_unary(
            _PREDICT, request_serializer=predict_pb2.PredictRequest.SerializeToString
        )
        self._status = model_service_pb2_grpc.ModelServiceStub(self._channel)

    def reset(self) -> None:
        """Abort the calls in flight and in the queue, which fail at once, and open a new channel."""
        with self._lock:
            if self._closed:
                return
            old_channel = self._channel
            self._connect()
        old_channel.close()
        self._abort_queued()

    def close(self) -> None:
        """Close the channel; calls in flight, in the queue or made later fail."""
        with self._lock:
            self._closed = True
            channel = self._channel
        channel.close()
        self._abort_queued()
        for _ in self._threads:
            self._jobs.put(None)

    def send(self, call: Call, done: OnOutcome) -> None:
        """Send a call; `done` is called once, on any thread, with its outputs or the error."""
        with self._lock:
            if not self._closed:
                self._jobs.put((call, done))
                return
        done(BackendUnavailable("the model server was removed"))

    def _abort_queued(self) -> None:
        aborted: list[OnOutcome] = []
        with self._lock, contextlib.suppress(queue.Empty):
            while (job := self._jobs.get_nowait()) is not None:
                aborted.append(job[1])
            # The client was closed meanwhile; this sentinel ends one of the threads.
            self._jobs.put(None)
        for done in aborted:
            done(BackendUnavailable("the backend was ejected"))

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            call, done = job
            try:
                outcome = self._predict_traced(call)
            except Exception:
                log.exception("a call to %s failed before it was sent", self.address)
                outcome = InternalError("a call to the model server could not be sent; see the gateway's log")
            done(outcome)

    def _predict_traced(self, call: Call) -> Arrays | GatewayError:
        spans = self._tracing.begin_call(call, self.address) if self._tracing else None
        shapes, metadata = call.output_shapes(), spans.metadata if spans else None
        outcome: Arrays | GatewayError
        try:
            outcome = self.predict(
                call.version, call.signature_name, call.inputs(), shapes, call.vocab_size, metadata=metadata
            )
        except GatewayError as error:
            # Its frames hold the arrays of the call.
            error.release()
            outcome = error
        if self._tracing:
            self._tracing.end_call(spans, outcome if isinstance(outcome, GatewayError) else None)
        return outcome

    def predict(
        self,
        version: ModelVersion,
        signature: str,
        inputs: Arrays,
        shapes: OutputShapes,
        vocab_size: int = MAX_VOCAB_SIZE,
        *,
        metadata: tuple[tuple[str, str], ...] | None = None,
    ) -> Arrays:
        """Make a call and return the outputs named in `shapes`, or raise the error that `call` would report.

        Token ids must be below `vocab_size`.
        """
        request = predict_pb2.PredictRequest(output_filter=tuple(shapes))
        request.model_spec.name, request.model_spec.version.value = version.name, version.number
        request.model_spec.signature_name = signature
        for name, array in inputs.items():
            request.inputs[name].CopyFrom(to_proto(array))
        try:
            content = self._predict_rpc(request, timeout=self._timeout_s, metadata=metadata)
        except grpc.RpcError as error:
            raise self._to_gateway_error(error) from error
        except ValueError as error:
            # The channel was closed meanwhile.
            raise BackendUnavailable(f"the backend is unreachable ({error})") from error
        try:
            return parse_response(content, shapes, vocab_size)
        except ValueError as error:
            what = f"{signature} of {version.name}:{version.number}"
            log.error("backend %s: invalid response to %s: %s", self.address, what, error)
            raise InvalidResponse("the backend returned an invalid response; see the gateway's log") from error

    def versions(self, name: str) -> list[VersionStatus]:
        """Request the status of all versions of a model.

        Raises:
            ModelNotFound: the server has no version of it.
            BackendUnavailable: no response, or `ServerBusy`: the server has no free thread.
        """
        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = name
        try:
            response = self._status.GetModelStatus(request, timeout=min(self._timeout_s, _STATUS_TIMEOUT_S))
        except grpc.RpcError as error:
            what = f"backend {self.address}: {error.code().name}: {error.details()}"
            match error.code():
                case grpc.StatusCode.NOT_FOUND:
                    raise ModelNotFound(what, param="model") from error
                case grpc.StatusCode.RESOURCE_EXHAUSTED:
                    raise ServerBusy(what) from error
            raise BackendUnavailable(what) from error
        except ValueError as error:
            # The channel was closed meanwhile.
            raise BackendUnavailable(f"backend {self.address}: {error}") from error
        state = get_model_status_pb2.ModelVersionStatus
        return [
            VersionStatus(
                status.version,
                available=status.state == state.AVAILABLE,
                error=status.status.error_message,
                loading=status.state in (state.START, state.LOADING),
            )
            for status in response.model_version_status
        ]

    def _to_gateway_error(self, error: Any) -> GatewayError:
        """Convert an RPC error to one that clients may see; addresses appear only in the log."""
        code, details = error.code(), error.details()
        if code in _TRANSIENT:
            return BackendUnavailable(f"the backend did not respond ({code.name})")
        if code == grpc.StatusCode.RESOURCE_EXHAUSTED:
            return ServerBusy(f"the backend is overloaded ({code.name})")
        if code == grpc.StatusCode.NOT_FOUND:
            return VersionGone()
        if code == grpc.StatusCode.FAILED_PRECONDITION and _DIFFERENT_SHAPES in (details or ""):
            if not self._batching_reported:
                self._batching_reported = True
                log.error("backend %s: %s (%s)", self.address, _BATCHING_ADVICE, details)
            return BatchingConflict(f"the backend rejects calls: {_BATCHING_ADVICE}")
        log.error("backend %s: %s: %s", self.address, code.name, details)
        return InternalError(f"the backend rejected a call ({code.name})")
