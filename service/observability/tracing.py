"""OpenTelemetry traces: a span for each request, with a child span for each call that computes for it.

OpenTelemetry is imported when tracing starts, not with this module: a gateway without tracing does not load it.
"""

import logging
import secrets
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from service.errors import GatewayError
from service.observability.metrics import HTTP_METHODS
from service.scheduling.call import Call

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
    from opentelemetry.trace import Span

log = logging.getLogger(__name__)

SERVICE = "sostenuto-gateway"
RPC = "tensorflow.serving.PredictionService/Predict"

# Headers of a W3C Trace Context.
TRACE_HEADERS = ("traceparent", "tracestate")

# Limit of spans that wait to be exported; further ones are dropped.
_MAX_WAITING = 8192
_EXPORT_TIMEOUT_S = 5.0


@dataclass(frozen=True, eq=False)
class Trace:
    """A traced request: its span, and the context of its child spans."""

    span: "Span"
    context: "Context"

    # All `gen_ai` names have the status "development" in the conventions; those used here are unchanged since 2024.

    def set_request(self, model: str | None, operation: str = "text_completion") -> None:
        self.span.set_attribute("gen_ai.operation.name", operation)
        if model is not None:
            self.span.set_attribute("gen_ai.request.model", model)

    def set_result(
        self, *, version: int, num_prompt_tokens: int, num_completion_tokens: int, reasons: Iterable[str] = ()
    ) -> None:
        self.span.set_attributes(
            {
                "sostenuto.model.version": version,
                "gen_ai.usage.input_tokens": num_prompt_tokens,
                "gen_ai.usage.output_tokens": num_completion_tokens,
                "gen_ai.response.finish_reasons": tuple(reasons),
            }
        )

    def end(self, status: int, error: GatewayError | None = None) -> None:
        """End the span with the response's status and the error, which may have occurred within a stream."""
        self.span.set_attribute("http.response.status_code", status)
        if status >= 500 or (error is not None and status < 400):
            # A client error, 4xx, is not an error of a server span.
            _set_error(self.span, _error_type(error) if error else str(status))
        elif error is not None:
            self.span.set_attribute("error.type", _error_type(error))
        self.span.end()


@dataclass(frozen=True, eq=False)
class CallSpans:
    """The spans of a running call, one in each trace that it belongs to."""

    spans: tuple["Span", ...]
    metadata: tuple[tuple[str, str], ...]  # of gRPC: the context of the first span, for a backend that traces too


class Tracing:
    """Creates spans and exports them on its own thread: create it in the serving process, after any fork.

    `ratio` is the share of requests without a trace context that are sampled; others carry their own decision.
    """

    def __init__(self, exporter: "SpanExporter", *, ratio: float, version: str) -> None:
        from opentelemetry import trace  # noqa: PLC0415 - see the module's docstring
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

        self._api, self._propagator = trace, TraceContextTextMapPropagator()
        self._provider = _provider(exporter, ratio, version)
        self._tracer = self._provider.get_tracer("service.observability.tracing", version)

    @classmethod
    def to(cls, endpoint: str, *, ratio: float, version: str) -> Self:
        """Export spans by OTLP over HTTP to an endpoint such as `http://collector:4318/v1/traces`."""
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415

        exporter = OTLPSpanExporter(endpoint=endpoint, timeout=_EXPORT_TIMEOUT_S)
        return cls(exporter, ratio=ratio, version=version)

    def begin_request(
        self, headers: Mapping[str, str], *, method: str, route: str | None, path: str, scheme: str = "http"
    ) -> Trace | None:
        """Return the trace of a request, which its sequences refer to; None if the request is not sampled.

        `headers` are those of TRACE_HEADERS that the client sent, `route` is the URL rule that matched, and `path` has
        no query.
        """
        standard_method = method if method in HTTP_METHODS else "_OTHER"
        attributes = {"http.request.method": standard_method, "url.path": path, "url.scheme": scheme}
        if route is not None:
            attributes["http.route"] = route
        if standard_method == "_OTHER":
            attributes["http.request.method_original"] = method
        name = " ".join(filter(None, ("HTTP" if standard_method == "_OTHER" else standard_method, route)))
        span = self._tracer.start_span(name, self._propagator.extract(headers), self._api.SpanKind.SERVER, attributes)
        return Trace(span, self._api.set_span_in_context(span)) if span.is_recording() else None

    def begin_call(self, call: Call, address: str) -> CallSpans | None:
        """Start a span of a call in every trace of its sequences; return None if there is none."""
        traces: Counter[Trace] = Counter(sequence.trace for sequence in call.sequences if sequence.trace is not None)
        if not traces:
            return None
        attributes = _call_attributes(call, address)
        spans = tuple(
            self._tracer.start_span(
                RPC, trace.context, self._api.SpanKind.CLIENT, {**attributes, "sostenuto.call.request_sequences": count}
            )
            for trace, count in traces.items()
        )
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, self._api.set_span_in_context(spans[0]))
        return CallSpans(spans, tuple(carrier.items()))

    def end_call(self, call: CallSpans | None, error: GatewayError | None = None) -> None:
        for span in call.spans if call else ():
            if error is None:
                span.set_attribute("rpc.response.status_code", "OK")
            else:
                _set_error(span, _error_type(error))
            span.end()

    def shutdown(self, timeout_s: float = 1.0) -> None:
        """Export the waiting spans within `timeout_s`; spans that end later are lost."""
        # The provider takes no time-out, and its exporter may be waiting for its own.
        thread = threading.Thread(target=self._provider.shutdown, name="last traces", daemon=True)
        thread.start()
        thread.join(timeout_s)


class _FirstMessage(logging.Handler):
    """A log handler that keeps the first message."""

    text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text = self.text or record.getMessage()


class _Exporter:
    """An exporter that logs once when exports start to fail and once when they succeed again."""

    def __init__(self, exporter: "SpanExporter") -> None:
        self._exporter, self._failing = exporter, False
        self._reason = _FirstMessage()
        # OpenTelemetry logs a warning for every failed batch and for every invalid header from a client.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        exporter_log = logging.getLogger("opentelemetry.exporter")
        exporter_log.setLevel(logging.WARNING)
        exporter_log.propagate, exporter_log.handlers = False, [self._reason]

    def export(self, spans: Sequence["ReadableSpan"]) -> "SpanExportResult":
        self._reason.text = ""
        result = self._exporter.export(spans)
        failing = result.name != "SUCCESS"
        if failing and not self._failing:
            log.warning("trace export failed; spans are dropped: %s", self._reason.text)
        elif self._failing and not failing:
            log.warning("trace export has recovered")
        self._failing = failing
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()


def _provider(exporter: "SpanExporter", ratio: float, version: str) -> "TracerProvider":
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 - see the module's docstring
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased  # noqa: PLC0415

    provider = TracerProvider(
        sampler=ParentBased(TraceIdRatioBased(ratio)),
        resource=Resource.create({"service.name": SERVICE, "service.version": version}),
        # At exit it would block the process while the collector is unavailable; see `shutdown`.
        shutdown_on_exit=False,
    )
    # An exporter without the base class, which is imported only here.
    quiet: Any = _Exporter(exporter)
    provider.add_span_processor(BatchSpanProcessor(quiet, max_queue_size=_MAX_WAITING))
    return provider


def _call_attributes(call: Call, address: str) -> dict[str, str | int]:
    host, _, port = address.rpartition(":")
    return {
        "rpc.system.name": "grpc",
        "rpc.method": RPC,
        "sostenuto.call.id": secrets.token_hex(8),
        "sostenuto.call.signature": call.signature_name,
        "sostenuto.call.batch_size": call.batch_size,
        "sostenuto.call.sequences": len(call.sequences),
        "sostenuto.call.steps": call.size,
        "sostenuto.model.name": call.version.name,
        "sostenuto.model.version": call.version.number,
        "server.address": host,
        "server.port": int(port),
    }


def _error_type(error: GatewayError) -> str:
    return error.code or error.type


def _set_error(span: "Span", kind: str) -> None:
    from opentelemetry.trace import StatusCode  # noqa: PLC0415 - see the module's docstring

    span.set_attribute("error.type", kind)
    span.set_status(StatusCode.ERROR)
