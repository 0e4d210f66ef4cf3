"""Traces by OpenTelemetry: a span for each request, and below it one for each call that worked on it.

Knows spans, calls and the names that OpenTelemetry's conventions give to facts. Does not know Flask or gRPC.
OpenTelemetry is imported by what makes traces, not by this module: a gateway that makes none does not load it.
"""

import logging
import secrets
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from collections.abc import Sequence as Many
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self

from service.errors import GatewayError
from service.scheduling.call import Call

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
    from opentelemetry.trace import Span

log = logging.getLogger(__name__)

SERVICE = "ostinato-gateway"
RPC = "tensorflow.serving.PredictionService/Predict"

_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
# Spans that wait to be sent; what comes beyond is lost.
_MAX_WAITING = 8192
_EXPORT_TIMEOUT_S = 5.0


class Headers(Protocol):
    """The headers of a request, by names in small letters; in truth a mapping, whose `get` takes a default too."""

    def get(self, name: str, /) -> str | None:
        """Return a header's value."""


@dataclass(frozen=True, eq=False)
class Trace:
    """A request that is traced: its span, and the context of the spans below it."""

    span: "Span"
    context: "Context"

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits."""
        return f"{self.span.get_span_context().trace_id:032x}"

    # The conventions call all `gen_ai` names "development"; those here are the ones that have held since 2024.

    def asked(self, model: str | None, operation: str = "text_completion") -> None:
        """Note what the request wants, of which model if it names one; `operation` is "embeddings" for those."""
        self.span.set_attribute("gen_ai.operation.name", operation)
        if model is not None:
            self.span.set_attribute("gen_ai.request.model", model)

    def finished(
        self, *, version: int, num_prompt_tokens: int, num_completion_tokens: int, reasons: Iterable[str] = ()
    ) -> None:
        """Note what was made, by which version."""
        self.span.set_attributes(
            {
                "ostinato.model.version": version,
                "gen_ai.usage.input_tokens": num_prompt_tokens,
                "gen_ai.usage.output_tokens": num_completion_tokens,
                "gen_ai.response.finish_reasons": tuple(reasons),
            }
        )

    def responded(self, status: int, error: GatewayError | None = None) -> None:
        """Note the answer's status, and the error, which may have come within a stream."""
        self.span.set_attribute("http.response.status_code", status)
        if status >= 500 or (error is not None and status < 400):
            # What the client did wrong, 4xx, is no failure of a server's span.
            _fail(self.span, _kind(error) if error else str(status))
        elif error is not None:
            self.span.set_attribute("error.type", _kind(error))


@dataclass(frozen=True, eq=False)
class CallSpans:
    """A call under way, once in each of the traces that it belongs to.

    Attributes:
        metadata: For gRPC: the first of the spans, for a model server that traces too.
    """

    spans: tuple["Span", ...]
    metadata: tuple[tuple[str, str], ...]


class Tracing:
    """Makes spans and sends them, on a thread of its own: make it in the process that serves, after any fork."""

    def __init__(self, exporter: "SpanExporter", *, ratio: float, version: str) -> None:
        """Start the thread.

        Args:
            exporter: Where spans go.
            ratio: Share of the requests that are traced, of those that come without a trace; the others say themselves.
            version: The project's.
        """
        from opentelemetry import trace  # noqa: PLC0415 - see the module's docstring
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

        self._api, self._propagator = trace, TraceContextTextMapPropagator()
        self._provider = _provider(exporter, ratio, version)
        self._tracer = self._provider.get_tracer("service.observability.tracing", version)

    @classmethod
    def to(cls, endpoint: str, *, ratio: float, version: str) -> Self:
        """Send spans by OTLP over HTTP, to an address such as `http://collector:4318/v1/traces`."""
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415

        exporter = OTLPSpanExporter(endpoint=endpoint, timeout=_EXPORT_TIMEOUT_S)
        return cls(exporter, ratio=ratio, version=version)

    @contextmanager
    def request(
        self, headers: Headers, *, method: str, route: str | None, path: str, scheme: str = "http"
    ) -> Iterator[Trace | None]:
        """Trace a request while the context lasts, which may end on another thread.

        Args:
            headers: `traceparent` and `tracestate` count: W3C Trace Context.
            method: As the client gave it.
            route: The rule that it matched, or None.
            path: Without the query.
            scheme: "http" or "https".

        Yields:
            What its sequences keep; None if the request is not among those that are traced.
        """
        known = method if method in _METHODS else "_OTHER"
        attributes = {"http.request.method": known, "url.path": path, "url.scheme": scheme}
        if route is not None:
            attributes["http.route"] = route
        if known == "_OTHER":
            attributes["http.request.method_original"] = method
        name = " ".join(filter(None, ("HTTP" if known == "_OTHER" else known, route)))
        span = self._tracer.start_span(name, self._propagator.extract(headers), self._api.SpanKind.SERVER, attributes)
        try:
            yield Trace(span, self._api.set_span_in_context(span)) if span.is_recording() else None
        except BaseException as error:
            _fail(span, type(error).__qualname__)
            raise
        finally:
            span.end()

    def begin_call(self, call: Call, address: str | None = None) -> CallSpans | None:
        """Start a span of a call in every trace that it works for; None where there is none.

        Args:
            call: About to be sent.
            address: `host:port` of the model server.
        """
        traces: Counter[Trace] = Counter(sequence.trace for sequence in call.sequences if sequence.trace is not None)
        if not traces:
            return None
        attributes = _describe(call, address)
        spans = tuple(
            self._tracer.start_span(
                RPC, trace.context, self._api.SpanKind.CLIENT, {**attributes, "ostinato.call.request_sequences": count}
            )
            for trace, count in traces.items()
        )
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, self._api.set_span_in_context(spans[0]))
        return CallSpans(spans, tuple(carrier.items()))

    def end_call(self, call: CallSpans | None, error: GatewayError | None = None) -> None:
        """End the spans of a call that was answered, or failed."""
        for span in call.spans if call else ():
            if error is None:
                span.set_attribute("rpc.response.status_code", "OK")
            else:
                _fail(span, _kind(error))
            span.end()

    def shutdown(self, timeout_s: float = 1.0) -> None:
        """Send what waits, but take no longer than this; spans that end later are lost."""
        # The provider takes no time-out, and its exporter may be waiting for one of its own.
        thread = threading.Thread(target=self._provider.shutdown, name="last traces", daemon=True)
        thread.start()
        thread.join(timeout_s)


class _FirstWords(logging.Handler):
    """Keeps what was logged first."""

    text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text = self.text or record.getMessage()


class _Exporter:
    """Passes spans on, and says once when that fails and once when it works again."""

    def __init__(self, exporter: "SpanExporter") -> None:
        self._exporter, self._failing = exporter, False
        self._why = _FirstWords()
        # OpenTelemetry warns of every batch that is not taken and of every odd header that a client sends.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        sending = logging.getLogger("opentelemetry.exporter")
        sending.setLevel(logging.WARNING)
        sending.propagate, sending.handlers = False, [self._why]

    def export(self, spans: Many["ReadableSpan"]) -> "SpanExportResult":
        self._why.text = ""
        result = self._exporter.export(spans)
        failing = result.name != "SUCCESS"
        if failing and not self._failing:
            log.warning("traces cannot be sent and are lost until they can: %s", self._why.text)
        elif self._failing and not failing:
            log.warning("traces are sent again")
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
        # It would hold up the end of the process for as long as nobody takes the spans; see `shutdown`.
        shutdown_on_exit=False,
    )
    # An exporter in all but its base class, which is loaded no earlier than this.
    quiet: Any = _Exporter(exporter)
    provider.add_span_processor(BatchSpanProcessor(quiet, max_queue_size=_MAX_WAITING))
    return provider


def _describe(call: Call, address: str | None) -> dict[str, str | int]:
    """Return the attributes that all spans of a call share."""
    attributes: dict[str, str | int] = {
        "rpc.system.name": "grpc",
        "rpc.method": RPC,
        "ostinato.call.id": secrets.token_hex(8),
        "ostinato.call.signature": call.signature,
        "ostinato.call.batch_size": call.batch_size,
        "ostinato.call.sequences": len(call.sequences),
        "ostinato.call.steps": call.size,
        "ostinato.model.name": call.model.name,
        "ostinato.model.version": call.model.version,
    }
    if address is not None:
        host, _, port = address.rpartition(":")
        attributes |= {"server.address": host, "server.port": int(port)}
    return attributes


def _kind(error: GatewayError) -> str:
    return error.code or error.type


def _fail(span: "Span", kind: str) -> None:
    from opentelemetry.trace import StatusCode  # noqa: PLC0415 - see the module's docstring

    span.set_attribute("error.type", kind)
    span.set_status(StatusCode.ERROR)
