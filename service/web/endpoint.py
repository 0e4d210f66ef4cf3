"""The declaration of an endpoint: its route, its permission and its entry in the OpenAPI document derive from it."""

import re
import time
import typing
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from flask import Response, g
from pydantic import BaseModel

from service.api.body import shorten
from service.api.requests import MAX_ID
from service.backends.replicas import Replicas
from service.context import Role
from service.engine import Engine
from service.errors import InvalidRequest, ShuttingDown
from service.memory_budget import MemoryBudget
from service.models.embedding_vectors import VectorFiles
from service.models.registry import ModelRegistry
from service.reports import Reports
from service.scheduling.admission import AdmissionControl
from service.scheduling.scheduler import Scheduler
from service.settings import Settings
from service.training import Training

# Groups of endpoints, in the order of the reference.
TAGS = {
    "Completions": "Generate text, score it, and resume it",
    "Embeddings and inspection": "Hidden states, gates and the token embedding",
    "Models": "Served models, their versions, labels and traffic split",
    "Tokenizer": "Text to tokens and back",
    "Training": "Upload texts and train models on them",
    "Reports": "How good generated records are",
    "Health and status": "For load balancers, orchestrators and people",
}
COMPLETIONS, HIDDEN_STATES, MODELS, TOKENIZER, TRAINING, REPORTS, OPERATION = TAGS
# Roles of a key that the endpoints of each group require.
ROLES: dict[str, Role] = {
    COMPLETIONS: "generate",
    HIDDEN_STATES: "generate",
    MODELS: "read",  # those that change a model name others
    TOKENIZER: "read",
    TRAINING: "train",
    REPORTS: "generate",
    OPERATION: "read",
}
# Errors of endpoints that run a model, beside those that derive from their declaration.
MODEL_ERRORS = (404, 499, 500, 503, 504)


class ShutdownGate:
    """The switch that refuses new requests once shutdown has begun."""

    def __init__(self) -> None:
        self.is_draining = False

    def refuse_if_draining(self) -> None:
        """Raise ShuttingDown for a new request during shutdown."""
        if self.is_draining:
            raise ShuttingDown("the server is shutting down; send the request to another gateway", retry_after_s=1)


View = TypeVar("View", bound=Callable[..., Any])
# Watches the client's connection while a request runs, and calls back when the client disconnects.
WatchSocket = Callable[[Any, Callable[[], object]], AbstractContextManager[Any]]


@dataclass(frozen=True)
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
    training: Training | None
    reports: Reports
    shutdown_gate: ShutdownGate
    started_at: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class QueryParameter:
    """An optional parameter in the query."""

    name: str
    description: str
    # Its JSON schema: a string, an integer with its limits, a boolean, or an object of strings: NAME[KEY]=VALUE.
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"})
    example: Any = None

    def read(self, query: Mapping[str, str]) -> Any:
        """Return the parameter's value in a query; raise InvalidRequest as `parse`."""
        if self.schema["type"] != "object":
            return self.parse(query.get(self.name))
        names = ((re.fullmatch(rf"{self.name}\[(.*)\]", name), value) for name, value in query.items())
        return {match[1]: value for match, value in names if match}

    def parse(self, value: str | None) -> Any:
        """Return a parameter's value, or its default if it is absent; raise InvalidRequest if its schema refuses it."""
        if value is None:
            return self.schema.get("default")
        if self.schema["type"] == "string":
            allowed = self.schema.get("enum", (value,))
            if value not in allowed:
                names = " or ".join(allowed)
                raise InvalidRequest(f"{self.name} must be {names}, got {shorten(value)}", param=self.name)
            return value
        if self.schema["type"] == "boolean":
            # Python's clients send `True`.
            if value.lower() not in ("true", "false"):
                raise InvalidRequest(f"{self.name} must be true or false, got {shorten(value)}", param=self.name)
            return value.lower() == "true"
        low, high = self.schema["minimum"], self.schema.get("maximum", MAX_ID)
        # In JSON Schema 5.0 is an integer, too.
        match = re.fullmatch(r"([0-9]{1,10})(\.0{1,10})?", value)
        if match is None or not low <= int(match[1]) <= high:
            raise InvalidRequest(
                f"{self.name} must be a number from {low} to {high}, got {shorten(value)}", param=self.name
            )
        return int(match[1])


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
    # Type of a successful response; by default what the view returns. `Response`: it has no body; NoReturn: there is no
    # successful response.
    response: Any = None
    query: tuple[QueryParameter, ...] = ()
    public: bool = False  # whether it never requires an API key
    streams: bool = False  # whether the response may also come as server-sent events
    uploads: bool = False  # whether the body is a file, as multipart/form-data
    roles: tuple[Role, ...] = ()  # any of which it requires of a key; by default that of its group
    view: Callable[..., Any] = field(init=False)

    def __call__(self, view: View) -> View:
        """Declare a view."""
        self.view = view
        self.response = self.response or typing.get_type_hints(view)["return"]
        self.roles = self.roles or (ROLES[self.tag],)
        ENDPOINTS.append(self)
        return view

    @property
    def method(self) -> str:
        """Its HTTP method."""
        return self.rule.split(" ")[0]

    @property
    def path(self) -> str:
        """Its path, with parameters in braces."""
        return self.rule.split(" ")[1]

    @property
    def has_body(self) -> bool:
        """Whether a successful response has a body."""
        return self.response not in (Response, typing.NoReturn)

    @property
    def errors(self) -> set[int]:
        """The statuses of its error responses."""
        # Every endpoint checks the Host header, and one with a body its origin and body.
        statuses = {*self.more_errors, 421, *(() if self.public else (401, 403))}
        statuses |= {403, 408, 413} if self.method in ("POST", "PATCH") else set()
        return statuses | ({400, 429} if self.request or self.query else set())


# Every endpoint, once the modules of the views are imported.
ENDPOINTS: list[Endpoint] = []


def json_response(body: bytes) -> Response:
    """Return a JSON response, and release all other memory of its request."""
    g.context.memory.shrink(len(body))
    return Response(body, mimetype="application/json")
