"""`ostinato generate`: stream a completion to standard output."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import click

from ostinato import OstinatoError
from ostinato._cli import states
from ostinato._cli.connection import connect, model_option, server_options
from ostinato._cli.inputs import text_or_stdin
from ostinato._cli.sampling import given_fields, sampling_options
from ostinato._cli.screen import say, write_json, write_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ostinato import Generation, Stream, TextDelta

EPILOG = """\
\b
Examples:
  ostinato generate "The " --max-tokens 300 --temperature 0.7
  printf 'The ' | ostinato generate --seed 7 > story.txt
  ostinato generate "The " --save-state story.state
  ostinato generate --state story.state --max-tokens 50

Several texts (-n 3) are written one after another, under lines as those of `head`: ==> 1 of 3 <==. With --json --stream
there is a line for each text delta, with index, text and finish_reason, and a last one with the whole response."""


@click.command(epilog=EPILOG, short_help="Generate a text that continues PROMPT.")
@click.argument("prompt", required=False)
@model_option
@sampling_options
@click.option("-n", "--n", type=click.IntRange(min=1), metavar="N", help="How many texts to write.")
@click.option("--suffix", metavar="TEXT", help="The ending, in place of the prompt, for a model that reads backwards.")
@click.option("--echo", is_flag=True, default=None, help="Begin with the prompt.")
@click.option("--logprobs", type=int, metavar="N", help="With --json: number of alternatives per token.")
@click.option(
    "--state",
    type=states.token,
    metavar="FILE|TOKEN",
    help="Continue from a resume token, given itself or in a file that --save-state wrote; PROMPT is read after it.",
)
@click.option(
    "--save-state",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the resume token of the text's end to it, also of a text that an error cut off.",
)
@click.option(
    "--resume/--no-resume",
    default=None,
    help="Resume an interrupted stream, byte-identically.  [default: on for a single text]",
)
@click.option(
    "--stream/--no-stream",
    default=None,
    help="Write as it comes.  [default: on for a single text without --json]",
)
@click.option("--json", "as_json", is_flag=True, help="The whole response as JSON, on one line.")
@click.option("-q", "--quiet", is_flag=True, help="No last line about tokens, speed and seed on a terminal.")
@server_options
def generate(
    prompt: str | None,
    *,
    suffix: str | None,
    save_state: Path | None,
    resume: bool | None,
    stream: bool | None,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Generate a text that continues PROMPT. Without it, or with -, the prompt is read from standard input.

    With --state a terminal is not asked, and nothing piped in is an empty prompt; what is piped in is read to its end.

    What no option says is the server's default. The text is written as it is, with no line end of its own; where a
    terminal shows it, its control characters are written out.
    """
    several = (options["n"] or 1) > 1
    stream = stream if stream is not None else not (as_json or several)
    _check(several, stream, as_json, options["logprobs"], save_state)
    fields = {**given_fields(options), **_beginning(prompt, suffix, options["state"])}
    if save_state is not None:
        states.check_place(save_state)
        fields["return_state"] = True
    with connect() as client:
        if not stream:
            with _state_kept(save_state):
                generation = client.generate(**fields)
            _write_whole(generation, as_json, save_state)
            return
        resume = not several if resume is None else resume
        began_at_s = monotonic()
        with _state_kept(save_state), _line_ended(as_json), client.stream(resume=resume, **fields) as response:
            for delta in response.events():
                _write_piece(delta, as_json)
    if as_json:
        write_json(response.generation.raw)
    _keep_state(response.generation.state, save_state)
    if sys.stderr.isatty() and not quiet:
        say(_summary(response, monotonic() - began_at_s), dim=True)


def _check(several: bool, stream: bool, as_json: bool, logprobs: int | None, save_state: Path | None) -> None:
    """Raise UsageError if options contradict each other."""
    if several and stream and not as_json:
        raise click.UsageError("several texts at once can't be told apart: leave out --stream, or add --json")
    if several and save_state is not None:
        raise click.UsageError("--save-state is for a single text: leave out -n")
    if logprobs is not None and not as_json:
        raise click.UsageError("--logprobs are told by --json alone: add it")


def _beginning(prompt: str | None, suffix: str | None, state: str | None) -> dict[str, str]:
    if suffix is None:
        return {"prompt": text_or_stdin(prompt, "prompt", may_be_empty=state is not None)}
    if prompt is not None:
        raise click.UsageError("a text has a prompt or a --suffix, by the direction of its model: leave one out")
    return {"suffix": text_or_stdin(suffix, "suffix")}


def _write_whole(generation: Generation, as_json: bool, save_state: Path | None) -> None:
    _keep_state(generation.state, save_state)
    if as_json:
        return write_json(generation.raw)
    if len(generation.choices) == 1:
        return write_text(generation.text)
    for choice in generation.choices:
        write_text(f"==> {choice.index + 1} of {len(generation.choices)} <==\n{choice.text}\n")
    return None


def _write_piece(delta: TextDelta, as_json: bool) -> None:
    if as_json:
        write_json({"index": delta.index, "text": delta.text, "finish_reason": delta.finish_reason})
    else:
        write_text(delta.text)


@contextmanager
def _state_kept(path: Path | None) -> Iterator[None]:
    """Save the resume token of an error, so that the generation can be resumed."""
    try:
        yield
    except OstinatoError as error:
        _keep_state(error.state, path)
        raise


@contextmanager
def _line_ended(as_json: bool) -> Iterator[None]:
    """End the text with a line break on a terminal."""
    try:
        yield
    finally:
        if not as_json and sys.stdout.isatty():
            write_text("\n")


def _keep_state(state: str | None, path: Path | None) -> None:
    if state is not None and path is not None:
        states.save(state, path)


def _summary(stream: Stream, seconds: float) -> str:
    generation = stream.generation
    num_tokens = generation.usage.completion_tokens if generation.usage else 0
    facts = [f"{num_tokens:,} tokens", f"{num_tokens / seconds:,.0f} tokens/s", f"seed {generation.seed}"]
    if stream.num_resumed:
        facts.append(f"resumed {stream.num_resumed}×")
    return " · ".join([*facts, str(generation.finish_reason)])
