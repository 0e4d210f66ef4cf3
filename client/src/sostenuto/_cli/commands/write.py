"""`sostenuto write`: write a text in turns with a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sostenuto._cli import lines
from sostenuto._cli.connection import connect, model_option, server_options
from sostenuto._cli.inputs import from_argument, is_piped
from sostenuto._cli.sampling import given_fields, sampling_options
from sostenuto._cli.screen import say, write_text
from sostenuto._cli.session import Session
from sostenuto._cli.states import check_place
from sostenuto._cli.writing import MAIN, Writing

if TYPE_CHECKING:
    from sostenuto import Client

MAX_TOKENS = 200  # per turn; the server's default is 16
TAIL = 400  # characters of a loaded text to show

EPILOG = """\
\b
Examples:
  sostenuto write "Once upon a time" --temperature 0.7
  sostenuto write --file story.json
  printf 'Once upon a time\\n\\n/text\\n' | sostenuto write

An empty line continues the text. Any other line is appended to the text first; \\n in it is a newline. Ctrl-C stops the
turn and keeps its text, Ctrl-D exits. /help lists the commands. Lines from a pipe are executed as if they were typed;
standard output is what the model generates, and the first error ends the session."""


@click.command(epilog=EPILOG, short_help="Write text in turns with a model.")
@click.argument("prompt", required=False)
@click.option(
    "--file",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Load the text from this file if it exists (omit PROMPT then), and save it after each line. A branch NAME of "
    "story.json is saved next to it, as story.NAME.json.",
)
@model_option
@sampling_options
@server_options
def write(prompt: str | None, *, path: Path | None, model: str | None, **options: Any) -> None:
    """Write text in turns with a model: you add a line, then the model generates up to 200 tokens (--max-tokens).

    The text starts with PROMPT. Each turn resumes from the state of the previous one, so no text is processed twice.
    """
    fields = given_fields(options)
    with connect() as client:
        writing = _begin(client, prompt, path, model, fields)
        writing.set("max_tokens", writing.conversation.options.get("max_tokens", MAX_TOKENS))
        if is_piped():
            session = Session(writing)
            for line in lines.piped():
                if not session.take(line):
                    break
            return
        _converse(writing)


def _begin(client: Client, prompt: str | None, path: Path | None, model: str | None, fields: dict[str, Any]) -> Writing:
    if path is None or not path.exists():
        if path is not None:
            check_place(path)
        return Writing(client, client.conversation(from_argument(prompt or "", "prompt"), model=model, **fields), path)
    if prompt is not None:
        raise click.UsageError(f"{path} has a text already: omit PROMPT, or pass another file")
    writing = Writing.open(client, path)
    if model is not None and model != writing.conversation.model:
        writing.set("model", model)
    for name, value in fields.items():
        writing.set(name, value)
    return writing


def _converse(writing: Writing) -> None:
    """Run an interactive session; it shows failures and continues."""
    text = writing.conversation.text
    say(
        f"{writing.conversation.model}: Enter continues, text is appended, /help lists commands, Ctrl-D exits", dim=True
    )
    if text:
        write_text(("…" if len(text) > TAIL else "") + text[-TAIL:] + "\n")
    session = Session(writing, patient=True)
    for line in lines.typed(lambda: "> " if writing.current == MAIN else f"{writing.current}> "):
        if not session.take(line):
            return
    say("")  # Ctrl-D leaves the cursor behind the prompt
