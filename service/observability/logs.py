"""How the process logs: one format for every line, whoever writes it, and one line for every request.

Knows `logging`. Does not know Flask, and reads no request: what is to be logged is handed in.
"""

import json
import logging
import re
import sys
import threading
from collections.abc import Iterable
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal

from gunicorn.glogging import Logger  # type: ignore[import-untyped]  # gunicorn has no types of its own
from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

# Of the request that the current thread works on.
request_id: ContextVar[str | None] = ContextVar("request_id", default=None)

log = logging.getLogger(__name__)
_access = logging.getLogger("service.access")

# Asked every few seconds by whatever runs the process.
_PROBES = ("/health", "/healthz", "/ping", "/readyz")
# A value that needs no quotes behind `key=`.
_PLAIN = re.compile(r'[^\s"=\\]+')
_RESERVED = {*RESERVED_ATTRS, "taskName"}


class _RequestId(logging.Filter):
    """Adds the request's id to whatever is logged while it is worked on."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass."""
        if (current := request_id.get()) is not None:
            record.request_id = current
        return True


class _Json(JsonFormatter):
    """A JSON object a line, in ASCII: no client's character can end one."""

    def __init__(self) -> None:
        names = {"asctime": "timestamp", "levelname": "level", "name": "logger"}
        super().__init__([*names, "message"], rename_fields=names)

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: ARG002
        """Return ISO 8601."""
        return _timestamp(record)


class _Text(logging.Formatter):
    """A line for people: time, level, logger, message, and what else is known as key=value.

    Line feeds and whatever else is not printable are escaped; the lines of a traceback are indented. So only we begin a
    line with a time.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Write one record."""
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
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)


def _quoted(value: object) -> str:
    text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return _printable(text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False))


def configure_logging(*, format: Literal["json", "text"], level: str) -> None:
    """Send everything that is logged in this process to standard error, in one format.

    Warnings and what ends a thread are logged too. Called before a fork, it holds for the children.

    Args:
        format: For machines or for people.
        level: The least that is logged: "DEBUG", "INFO", "WARNING", "ERROR".
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if format == "json" else _Text())
    handler.addFilter(_RequestId())
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
        log.critical("the program ends by an exception", exc_info=(kind, error, trace))


def _log_thread_exception(end: threading.ExceptHookArgs) -> None:
    if end.exc_value is not None and end.exc_type is not SystemExit:
        name = end.thread.name if end.thread else "unknown"
        log.critical("the thread %s ends by an exception", name, exc_info=end.exc_value)


class GunicornLogger(Logger):  # type: ignore[misc]
    """gunicorn's logger for `logger_class`: its lines go the way of all others; `loglevel` is still its own."""

    def setup(self, cfg: Any) -> None:
        """Take over the settings, at the start and when they are read again."""
        self.cfg = cfg
        self.loglevel = self.LOG_LEVELS.get(cfg.loglevel.lower(), logging.INFO)
        for logger in (self.error_log, self.access_log):
            logger.handlers.clear()
            logger.propagate = True
            logger.setLevel(self.loglevel)


def log_request(
    *,
    method: str,
    route: str | None,
    path: str,
    status: int,
    duration_ms: float,
    client: str | None = None,
    key: str | None = None,
    model: str | None = None,
    version: int | None = None,
    stream: bool | None = None,
    prompt_tokens: int | None = None,
    completion_tokens: int | None = None,
    finish_reasons: Iterable[str] = (),
    error: str | None = None,
    user_agent: str | None = None,
    prompt: object = None,
    suffix: object = None,
    text: object = None,
) -> None:
    """Write the line of one request, once it is over, with these fields; what is None is left out.

    Args:
        method: As the client gave it.
        route: The rule that it matched.
        path: As the client gave it; a query, which may hold secrets, is cut off.
        status: Of the answer.
        duration_ms: From the request's head to the last byte of the answer.
        client: Its address.
        key: Names the key, and is not the key.
        model: Its name.
        version: Of the model.
        stream: Whether the answer was one.
        prompt_tokens: Tokens of all prompts.
        completion_tokens: Tokens of all choices.
        finish_reasons: Of the choices that ended.
        error: The error's code, or its type if it has no code, also within a stream.
        user_agent: What the client calls itself.
        prompt: What the text goes on with. Other people's words: give it only where the operator asks for it.
        suffix: What the text leads up to; as for `prompt`.
        text: What was written; as for `prompt`.
    """
    level = logging.DEBUG if route in _PROBES else logging.INFO
    if not _access.isEnabledFor(level):
        return
    fields = {
        "method": method,
        "route": route,
        "path": path.partition("?")[0],
        "status": status,
        "duration_ms": round(duration_ms, 1),
        "client": client,
        "key": key,
        "model": model,
        "version": version,
        "stream": stream,
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "finish_reasons": list(finish_reasons) or None,
        "error": error,
        "user_agent": user_agent,
        "prompt": prompt,
        "suffix": suffix,
        "text": text,
    }
    _access.log(level, "request", extra={name: value for name, value in fields.items() if value is not None})
