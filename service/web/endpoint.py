"""The declaration of an endpoint, from which its route, permission and OpenAPI entry derive.

Also provides what views need: the services and the request's body.
"""

import re
import time
import typing
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, TypeVar

from flask import Flask, Response, g, request
from pydantic import BaseModel

from service.api.body import AnyBody, parse, require
from service.api.requests import MAX_ID
from service.backends.replicas import Replicas
from service.context import RequestContext, Role
from service.engine import Engine, OnStart
from service.errors import InvalidRequest, MissingRole, NotFound, ShuttingDown, Unauthorized
from service.generation.running_request import RunningRequest
from service.memory import MemoryBudget, MemoryLease
from service.models.embedding_vectors import VectorFiles
from service.models.registry import ModelRegistry
from service.reports import Reports
from service.scheduling.admission import AdmissionControl
from service.scheduling.scheduler import Scheduler
from service.settings import Settings
from service.training import Training


class Tag(NamedTuple):
    """A group of endpoints."""

    description: str
    role: Role  # of a key, which its endpoints require unless they name others


# By name, in the order of the reference.
TAGS = {
    "Completions": Tag("Generate text, score it, and resume it", "generate"),
    "Embeddings and inspection": Tag("Hidden states, gates and the token embedding", "generate"),
    "Models": Tag("Served models, their versions, labels and traffic split", "read"),
    "Tokenizer": Tag("Text to tokens and back", "read"),
    "Training": Tag("Upload texts and train models on them", "train"),
    "Reports": Tag("How good generated records are", "generate"),
    "Health and status": Tag("For load balancers, orchestrators and people", "read"),
}
COMPLETIONS, HIDDEN_STATES, MODELS, TOKENIZER, TRAINING, REPORTS, OPERATION = TAGS
# Errors of endpoints that run a model, beside those that derive from their declaration.
MODEL_ERRORS = (404, 499, 500, 503, 504)

# Copies of a body while it is read: gunicorn's buffer, Werkzeug's, and the returned bytes.
_READING_COPIES = 3
# Bytes per JSON value while it is parsed, in the parser and in Python (measured: 46 and 77 for ids, 116 for lists of
# lists). Text that is not ASCII has up to four bytes per character.
_BYTES_PER_ITEM, _BYTES_PER_BRACKET, _TEXT_COPIES = 80, 100, 2

AnyProcessor = TypeVar("AnyProcessor")
View = TypeVar("View", bound=Callable[..., Any])
# Watches the client's connection while a request runs, and calls back when the client disconnects.
WatchSocket = Callable[[Any, Callable[[], object]], AbstractContextManager[Any]]


@dataclass
class Services:
    """The collaborators of the views."""

    engine: Engine
    model_registry: ModelRegistry
    vectors: VectorFiles
    scheduler: Scheduler
    admission: AdmissionControl
    replicas: Replicas
    memory: MemoryBudget
    settings: Settings
    watch_socket: WatchSocket
    training: Training | None  # None: this gateway does not train
    reports: Reports
    started_at: float = field(default_factory=time.monotonic)
    is_draining: bool = False  # whether shutdown has begun

    def refuse_if_draining(self) -> None:
        """Raise ShuttingDown for a new request during shutdown."""
        if self.is_draining:
            raise ShuttingDown("the server is shutting down; send the request to another gateway", retry_after_s=1)


@dataclass(frozen=True)
class QueryParameter:
    """An optional parameter in the query."""

    name: str
    description: str
    # Its JSON schema: a string, an integer with its limits, a boolean, or an object of strings: NAME[KEY]=VALUE.
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"})
    example: Any = None

    def read(self, query: Mapping[str, str]) -> Any:
        """Return the parameter's value in a query, or its default; raise InvalidRequest if its schema refuses it."""
        if self.schema["type"] == "object":
            names = ((re.fullmatch(rf"{self.name}\[(.*)\]", name, re.DOTALL), value) for name, value in query.items())
            return {match[1]: value for match, value in names if match}
        value = query.get(self.name)
        if value is None:
            return self.schema.get("default")
        if self.schema["type"] == "string":
            allowed = self.schema.get("enum", (value,))
            require(value in allowed, self.name, f"be {' or '.join(allowed)}", value)
            return value
        if self.schema["type"] == "boolean":
            # Python's clients send `True`.
            require(value.lower() in ("true", "false"), self.name, "be true or false", value)
            return value.lower() == "true"
        low, high = self.schema["minimum"], self.schema.get("maximum", MAX_ID)
        # In JSON Schema 5.0 is an integer, too.
        match = re.fullmatch(r"([0-9]{1,10})(\.0{1,10})?", value)
        number = int(match[1]) if match else low - 1
        require(low <= number <= high, self.name, f"be a number from {low} to {high}", value)
        return number


def integer(
    name: str, description: str, minimum: int, maximum: int, default: int, example: int | None = None
) -> QueryParameter:
    """Declare a parameter whose schema is an integer with limits and a default."""
    schema = {"type": "integer", "minimum": minimum, "maximum": maximum, "default": default}
    return QueryParameter(name, description, schema, example)


@dataclass(eq=False)
class Endpoint:
    """The declaration of an endpoint, as a decorator of its view.

    The view gets the services, and as keyword arguments the parameters of path and query.
    """

    rule: str  # method and path, with its parameters in braces
    tag: str  # its group; a key of TAGS
    summary: str  # its title in the reference, where the view's docstring is its description
    more_errors: tuple[int, ...] = ()  # statuses of error responses, beside those that derive from the rest
    request: type[BaseModel] | None = None  # type of the body
    # Type of a successful response, by default that of the view. `Response`: no body; NoReturn: no successful response.
    response: Any = None
    query: tuple[QueryParameter, ...] = ()
    public: bool = False  # whether it is public: it never requires an API key
    streams: Any = None  # type of an event, if the response may also come as server-sent events
    uploads: bool = False  # whether the body is a file, as multipart/form-data
    roles: tuple[Role, ...] = ()  # roles, any of which it requires; by default that of its group
    view: Callable[..., Any] = field(init=False)

    def __call__(self, view: View) -> View:
        self.view = view
        self.response = self.response or typing.get_type_hints(view)["return"]
        self.roles = self.roles or (TAGS[self.tag].role,)
        ENDPOINTS.append(self)
        return view

    @property
    def method(self) -> str:
        return self.rule.split(" ")[0]

    @property
    def path(self) -> str:
        return self.rule.split(" ")[1]

    @property
    def has_body(self) -> bool:
        return self.response not in (Response, typing.NoReturn)

    @property
    def errors(self) -> set[int]:
        # Every endpoint checks the Host header, and one with a body its origin and body.
        statuses = {*self.more_errors, 421, *(() if self.public else (401, 403))}
        statuses |= {403, 408, 413} if self.method in ("POST", "PATCH") else set()
        return statuses | ({400, 429} if self.request or self.query else set())


# Every endpoint: the package imports the modules of the views, which declare them.
ENDPOINTS: list[Endpoint] = []


def register_endpoints(app: Flask, services: Services) -> None:
    for endpoint in ENDPOINTS:
        rule = endpoint.path.replace("{", "<").replace("}", ">")
        view = partial(_respond, endpoint, services)
        app.add_url_rule(rule, endpoint.view.__name__, view, methods=[endpoint.method])


def _respond(endpoint: Endpoint, services: Services, **in_path: str) -> Any:
    """Call a view with the parameters of path and query."""
    if not endpoint.public and not {*endpoint.roles} & {*g.context.roles}:
        if not g.context.key:
            raise MissingRole("without API keys, only a server on loopback trains and changes models")
        required, own = " or ".join(endpoint.roles), ", ".join(g.context.roles)
        raise MissingRole(f"the API key must have the role {required}, got {own}")
    # PostgreSQL has no text with it.
    if "\0" in request.path:
        raise NotFound("there is no path with the character NUL")
    if any("\0" in text for text in (*request.args, *request.args.values())):
        raise InvalidRequest("the query must not have the character NUL")
    in_query = {parameter.name: parameter.read(request.args) for parameter in endpoint.query}
    return endpoint.view(services, **in_path, **in_query)


def start_request(
    services: Services,
    body_type: type[AnyBody],
    start: Callable[[AnyBody, RequestContext, OnStart], AnyProcessor],
    stack: ExitStack,
) -> AnyProcessor:
    """Parse a body and start its request, which ends with the stack.

    A separate function, so that the body's prompts are freed before the response begins.
    """
    services.refuse_if_draining()
    body = parse_body(services, body_type)
    g.request_log.record_request(body)
    return start(body, g.context, partial(_watch_request, services, stack))


def _watch_request(services: Services, stack: ExitStack, running: RunningRequest) -> None:
    """Cancel a request if its client disconnects or its key is revoked; record and close it when the stack unwinds."""
    stack.callback(g.request_log.record_result, running)
    stack.callback(running.close)
    stack.enter_context(g.context.watch_key(lambda: running.cancel(Unauthorized("the API key was revoked"))))
    stack.enter_context(services.watch_socket(request.environ.get("gunicorn.socket"), running.cancel))


def parse_body(services: Services, body_type: type[AnyBody]) -> AnyBody:
    """Charge the principal for one request, even if it fails, and parse the body."""
    g.context.charge_request()
    return parse(body_type, read_body(g.context.memory), services.settings)


def read_body(memory: MemoryLease) -> bytes:
    """Read the body; its limit is the app's MAX_CONTENT_LENGTH.

    `memory` holds the estimated bytes for reading the body, then those for parsing it.

    Raises:
        InvalidRequest: it is empty, shorter than announced or compressed.
        MemoryExhausted: other requests hold too much memory.
        ParseException: its chunks are malformed.
        RequestEntityTooLarge: it exceeds the limit.
    """
    encoding = request.headers.get("Content-Encoding", "identity")
    if encoding.lower() != "identity":
        raise InvalidRequest(f"Content-Encoding must be identity or absent, got {encoding[:40]!r}")
    announced, limit = request.content_length, request.max_content_length or 0
    memory.hold(_READING_COPIES * min(limit, limit if announced is None else announced), "the body")
    body = request.get_data(cache=False)
    if not body:
        raise InvalidRequest("the body must be JSON, got nothing")
    if len(body) < (request.content_length or 0):
        raise InvalidRequest(
            f"the body must have the {request.content_length} bytes that Content-Length announces, got {len(body)}"
        )
    memory.hold(parsing_bytes(body), "the body")
    return body


def parsing_bytes(body: bytes) -> int:
    """Return an upper estimate of the memory in bytes for parsing a body, including the body and the parsed values."""
    width = 1 if body.isascii() and b"\\u" not in body else 4
    num_brackets = body.count(b"[") + body.count(b"{")
    num_values = _BYTES_PER_ITEM * body.count(b",") + _BYTES_PER_BRACKET * num_brackets
    return (1 + _TEXT_COPIES * width) * len(body) + num_values


def json_response(body: bytes) -> Response:
    """Return a JSON response, and release all other memory of its request."""
    g.context.memory.shrink(len(body))
    return Response(body, mimetype="application/json")
