"""`sostenuto generate`: stream a completion to standard output."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import click

from sostenuto import SostenutoError
from sostenuto._cli import states
from sostenuto._cli.connection import connect, model_option, server_options
from sostenuto._cli.inputs import text_or_stdin
from sostenuto._cli.interrupts import closed_by_ctrl_c
from sostenuto._cli.sampling import given_fields, sampling_options
from sostenuto._cli.screen import say, write_json, write_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sostenuto import Generation, Stream, TextDelta

EPILOG = """\
\b
Examples:
  sostenuto generate "To be, or not " --max-tokens 300 --temperature 0.5
  printf 'HAMLET.\\n' | sostenuto generate --seed 7 > story.txt
  sostenuto generate "To be, or not " --save-state story.state
  sostenuto generate --state story.state --max-tokens 50

With -n 3 the completions are printed one after another, each under a header line: ==> 1 of 3 <==. With --json --stream
each text delta is a line of JSON with index, text and finish_reason, and the last line is the whole response."""


@click.command(epilog=EPILOG, short_help="Generate text that continues PROMPT.")
@click.argument("prompt", required=False)
@model_option
@sampling_options
@click.option("-n", "--n", type=click.IntRange(min=1), metavar="N", help="Number of completions.")
@click.option(
    "--suffix",
    metavar="TEXT",
    help="For a backward model, in place of PROMPT: the end of the text; the model generates what precedes it.",
)
@click.option("--echo", is_flag=True, default=None, help="Print the prompt, too.")
@click.option("--logprobs", type=int, metavar="N", help="With --json: number of alternatives per token.")
@click.option(
    "--state",
    type=states.token,
    metavar="FILE|TOKEN",
    help="Resume from a resume token, or from a file written by --save-state. PROMPT, if given, is appended; the "
    "earlier text is not processed again.",
)
@click.option(
    "--save-state",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the resume token to this file, also after an error or Ctrl-C that interrupted the text.",
)
@click.option(
    "--resume/--no-resume",
    default=None,
    help="Resume a stream after a lost connection; the text is byte-identical.  [default: on for one completion]",
)
@click.option(
    "--stream/--no-stream",
    default=None,
    help="Print the text while it is generated.  [default: on for one completion without --json]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the whole response as JSON, on one line.")
@click.option("-q", "--quiet", is_flag=True, help="Omit the last line on a terminal, with tokens, speed and seed.")
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
    """Generate text that continues PROMPT. If PROMPT is omitted or -, the prompt is read from standard input.

    With --state the prompt may be empty: it is read from standard input only if that is a pipe or a file.

    An omitted option has the server's default. The output is the text and nothing else, without a newline at its end;
    on a terminal its control characters are escaped.
    """
    several = (options["n"] or 1) > 1
    stream = stream if stream is not None else not (as_json or several)
    _check(several, stream, as_json, options["logprobs"], save_state)
    fields = {**given_fields(options), **_beginning(prompt, suffix, options["state"])}
    if save_state is not None:
        states.check_place(save_state)
        fields["return_state"] = True
        if stream:
            # With every text delta, so that there is one for the text that Ctrl-C leaves.
            fields["stream_options"] = {"include_usage": True, "state_interval": 1}
    with connect() as client:
        if not stream:
            try:
                generation = client.generate(**fields)
            except SostenutoError as error:
                _keep_state(error.state, save_state)
                raise
            _write_whole(generation, as_json, save_state)
            return
        resume = not several if resume is None else resume
        began_at_s = monotonic()
        response = client.stream(resume=resume, **fields)
        with _state_kept(save_state, response), _line_ended(as_json), closed_by_ctrl_c(response):
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
        raise click.UsageError("--stream prints one completion: omit it, or -n, or add --json")
    if several and save_state is not None:
        raise click.UsageError("--save-state is for a single completion: omit -n")
    if logprobs is not None and not as_json:
        raise click.UsageError("--logprobs needs --json")


def _beginning(prompt: str | None, suffix: str | None, state: str | None) -> dict[str, str]:
    if suffix is None:
        return {"prompt": text_or_stdin(prompt, "prompt", may_be_empty=state is not None)}
    if prompt is not None:
        raise click.UsageError(
            "PROMPT and --suffix exclude each other: PROMPT is for forward models, --suffix for backward models"
        )
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
def _state_kept(path: Path | None, response: Stream) -> Iterator[None]:
    """Save the resume token of an interrupted stream: after an error or Ctrl-C, that of its text so far."""
    try:
        yield
    except SostenutoError as error:
        _keep_state(error.state, path)
        raise
    except KeyboardInterrupt:
        state = response.generation.state
        _keep_state(state, path)
        if state is None and path is not None:
            say(f"{path} is not written: there was no resume token yet", dim=True)
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
