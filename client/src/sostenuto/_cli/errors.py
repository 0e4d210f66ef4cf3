"""Exit codes and one-line messages of errors, with advice in terms of the command line."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

import sostenuto
from sostenuto._cli import WRONG_USAGE

SERVER_FAILED, NO_SERVER = 1, 3
BROKEN_PIPE = 141  # 128 + SIGPIPE, as in shells

EXIT_CODES = """\
\b
Exit codes:
  0    success
  1    the server returned an error, a training job failed, or a deletion was not confirmed
  2    usage error, or a file that cannot be read or written
  3    server unreachable, connection lost, or not a Sostenuto server
  130  interrupted by Ctrl-C
  141  broken pipe: the reader of the output has exited; no message"""

# Replacements for advice of the SDK that applies only to Python programs.
_ADVICE: dict[type[sostenuto.SostenutoError], str] = {
    sostenuto.ModelNotFound: "`sostenuto models` lists the models",
    sostenuto.NotFound: "compare the name or id with those that the server lists, and check --base-url",
    sostenuto.MethodNotAllowed: "check --base-url",
    sostenuto.Unauthorized: "set SOSTENUTO_API_KEY, or pass --api-key-file",
    sostenuto.DeadlineExceeded: "request fewer tokens",
}
_NAMES = {
    "or stream with resume=True; .text holds the text so far": "and without --no-resume",
    "resume=True needs one prompt and n=1: send one request per completion": "omit -n, or add --no-resume",
    "raise timeout, request fewer tokens, or stream": "raise --timeout, or request fewer tokens",
    "base_url": "--base-url",
    "api_key": "the API key",
    "max_retries": "--retries",
}


class Failure(click.ClickException):
    """A usage error, or a file that cannot be read or written; the message ends with advice."""

    exit_code = WRONG_USAGE


def exit_code(error: sostenuto.SostenutoError) -> int:
    if isinstance(error, sostenuto.InvalidArgument):
        return WRONG_USAGE
    return SERVER_FAILED if isinstance(error, (sostenuto.APIError, sostenuto.JobFailed)) else NO_SERVER


def error_line(error: Exception) -> str:
    if isinstance(error, sostenuto.APIError):
        message = _with_advice(error)
    elif isinstance(error, click.UsageError):
        path = error.ctx.command_path if error.ctx else "sostenuto"
        message = f"{error.format_message().rstrip('.')}: see `{path} --help`"
    elif isinstance(error, click.ClickException):
        message = error.format_message()
    else:
        message = str(error)
        for name, option in _NAMES.items():
            # Not part of a file's name or of an id.
            message = re.sub(rf"(?<![\w./-]){re.escape(name)}(?![\w./-])", option, message)
    return "error: " + " ".join(message.split())


@contextmanager
def failing_to(action: str) -> Iterator[None]:
    """Raise Failure with the system's message, without errno and path, if the block raises OSError."""
    try:
        yield
    except OSError as error:
        raise Failure(f"cannot {action}: {error.strerror or type(error).__name__}") from error


def check_place(path: Path) -> None:
    """Raise Failure, before there is anything to write, if nothing can be written to a path."""
    if not path.parent.is_dir():
        raise Failure(f"cannot write {path}: there is no directory {path.parent}")
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise Failure(f"cannot write {path}: pass a file in a writable directory")


def _with_advice(error: sostenuto.APIError) -> str:
    message = str(error)
    for kind in type(error).__mro__:
        if kind in _ADVICE and message.endswith(error.advice):
            return message[: -len(error.advice)] + _ADVICE[kind]
    return message
