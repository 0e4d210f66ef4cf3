"""What went wrong, as an exit code and one line that says what to do. It writes nothing itself."""

from __future__ import annotations

import click

import ostinato
from ostinato._cli import WRONG_USAGE

SERVER_FAILED, NO_SERVER = 1, 3
INTERRUPTED, BROKEN_PIPE = 130, 141  # 128 and the number of the signal, as a shell would say

EXIT_CODES = """\
\b
Exit codes:
  0    done
  1    the server refused the request, or failed at it
  2    wrong usage, or a file that can't be read or written
  3    no server, a lost connection, or something that is no Ostinato server
  130  stopped by Ctrl-C
  141  whoever read the output is gone; nothing is said"""

# Where the SDK's advice names what only a program in Python can do.
_ADVICE: dict[type[ostinato.OstinatoError], str] = {
    ostinato.ModelNotFound: "`ostinato models` lists those there are",
    ostinato.NotFound: "check --base-url",
    ostinato.MethodNotAllowed: "check --base-url",
    ostinato.Unauthorized: "set OSTINATO_API_KEY, or pass --api-key-file",
    ostinato.DeadlineExceeded: "ask for fewer tokens",
    ostinato.StateOfAnotherModel: "leave out --model, or name the one that the state is of",
}
_NAMES = {
    "or stream with resume=True; .text holds what came": "and without --no-resume",
    "resume=True needs one prompt and n=1: send each text by a request of its own": "leave out -n, or add --no-resume",
    "raise timeout, ask for fewer tokens, or stream": "raise --timeout, or ask for fewer tokens",
    "base_url": "--base-url",
    "api_key": "the API key",
    "max_retries": "--retries",
}


class Failure(click.ClickException):
    """Something is wrong with what was given; the message says what, and what to do."""

    exit_code = WRONG_USAGE


def exit_code(error: ostinato.OstinatoError) -> int:
    """Tell whose fault it is."""
    if isinstance(error, ostinato.InvalidArgument):
        return WRONG_USAGE
    return SERVER_FAILED if isinstance(error, ostinato.APIError) else NO_SERVER


def line(error: Exception) -> str:
    """Return what is said about an error, on one line."""
    if isinstance(error, ostinato.APIError):
        said = _with_advice(error)
    elif isinstance(error, ostinato.OstinatoError):
        said = str(error)
        for name, option in _NAMES.items():
            said = said.replace(name, option)
    elif isinstance(error, click.UsageError):
        path = error.ctx.command_path if error.ctx else "ostinato"
        said = f"{error.format_message().rstrip('.')}: see `{path} --help`"
    elif isinstance(error, click.ClickException):
        said = error.format_message()
    else:
        said = str(error)
    return "error: " + " ".join(said.split())


def reason(error: OSError) -> str:
    """Return what the system says, without number and path."""
    return error.strerror or type(error).__name__


def _with_advice(error: ostinato.APIError) -> str:
    said = str(error)
    for kind in type(error).__mro__:
        if kind in _ADVICE and said.endswith(error.advice):
            return said[: -len(error.advice)] + _ADVICE[kind]
    return said
