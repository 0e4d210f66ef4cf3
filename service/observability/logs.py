"""Logging: one format for every line in the process, and one access log line per request."""

import json
import logging
import re
import sys
import threading
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from types import TracebackType
from typing import Any, Literal

from gunicorn.glogging import Logger  # type: ignore[import-untyped]  # gunicorn has no types of its own
from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

# The id of the request that the current thread handles.
request_id: ContextVar[str | None] = ContextVar("request_id", default=None)

log = logging.getLogger(__name__)
_access = logging.getLogger("service.access")

# Finish reasons in a line; a request may have 10,000 choices.
MAX_REASONS = 128
# Health checks, every few seconds, and the files of the pages, some 20 per visit.
_FREQUENT = ("/health", "/healthz", "/ping", "/readyz", "/static/<path:name>", "/docs/<path:name>")
# A value that needs no quotes after `key=`.
_PLAIN = re.compile(r'[^\s"=\\]+')
_RESERVED = {*RESERVED_ATTRS, "taskName"}


def _add_request_id(record: logging.LogRecord) -> bool:
    """Add the id of the current request to a record; as a filter, accept the record."""
    if (current := request_id.get()) is not None:
        record.request_id = current
    return True


class _Json(JsonFormatter):
    """One JSON object per line, in ASCII: no character from a client can end a line."""

    def __init__(self) -> None:
        names = {"asctime": "timestamp", "levelname": "level", "name": "logger"}
        super().__init__([*names, "message"], rename_fields=names)

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: ARG002
        return _timestamp(record)


class _Text(logging.Formatter):
    """One line for people: time, level, logger, message, and extra fields as key=value.

    Line feeds and other unprintable characters are escaped, and traceback lines are indented: no client can forge
    a line that begins with a time.
    """

    def format(self, record: logging.LogRecord) -> str:
        extras = "".join(f" {key}={_quoted(value)}" for key, value in vars(record).items() if key not in _RESERVED)
        message = _printable(record.getMessage().rstrip())
        line = f"{_timestamp(record)} {record.levelname} {record.name} {message}{extras}"
        trace = self.formatException(record.exc_info) if record.exc_info else record.exc_text or ""
        return "\n    ".join([line, *(_printable(part) for part in trace.split("\n") if part)])


def _timestamp(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def _quoted(value: object) -> str:
    text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return _printable(text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False))


def configure_logging(*, format: Literal["json", "text"], level: str) -> None:
    """Log everything in this process to standard error, in a format for programs or for people.

    Warnings and uncaught exceptions of threads are logged too. Called before a fork, it applies to the children.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if format == "json" else _Text())
    handler.addFilter(_add_request_id)
    # For loggers with a lower level of their own, such as gunicorn's.
    handler.setLevel(level.upper())
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    logging.captureWarnings(True)
    sys.excepthook = _log_exception
    threading.excepthook = _log_thread_exception


def _log_exception(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
    else:
        log.critical("uncaught exception, the process exits", exc_info=(kind, error, trace))


def _log_thread_exception(end: threading.ExceptHookArgs) -> None:
    if end.exc_value is not None and end.exc_type is not SystemExit:
        name = end.thread.name if end.thread else "unknown"
        log.critical("uncaught exception, thread %s ends", name, exc_info=end.exc_value)


class GunicornLogger(Logger):  # type: ignore[misc]
    """gunicorn's `logger_class`: propagates to the root logger; `loglevel` still applies."""

    def setup(self, cfg: Any) -> None:
        """Apply the settings, at the start and on a reload."""
        self.cfg = cfg
        self.loglevel = self.LOG_LEVELS.get(cfg.loglevel.lower(), logging.INFO)
        for logger in (self.error_log, self.access_log):
            logger.handlers.clear()
            logger.propagate = True
            logger.setLevel(self.loglevel)


@dataclass
class AccessLogLine:
    """The fields of a finished request's line in the access log; those that are None are omitted."""

    method: str
    route: str | None  # the URL rule that matched
    path: str  # the query, which may contain secrets, is not logged
    status: int = 0
    duration_ms: float = 0.0  # as in `http_request_duration_seconds`
    client: str | None = None  # IP address
    key: str | None = None  # id of the API key, not the key
    model: str | None = None
    version: int | None = None
    stream: bool | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    finish_reasons: Iterable[str] = ()
    error: str | None = None  # code, or type if there is no code, even within a stream
    user_agent: str | None = None
    prompt: object = None  # as the suffix, user content: set only if the operator enables it
    suffix: object = None


def log_request(line: AccessLogLine) -> None:
    level = logging.DEBUG if line.route in _FREQUENT else logging.INFO
    if not _access.isEnabledFor(level):
        return
    fields = vars(line) | {
        "path": line.path.partition("?")[0],
        "duration_ms": round(line.duration_ms, 1),
        "finish_reasons": list(islice(line.finish_reasons, MAX_REASONS)) or None,
    }
    _access.log(level, "request", extra={name: value for name, value in fields.items() if value is not None})
