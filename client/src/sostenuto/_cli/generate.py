"""`sostenuto generate`: stream a completion to standard output."""

from __future__ import annotations

import re
import sys
from dataclasses import asdict
from pathlib import Path
from time import monotonic
from typing import Any

import click

from sostenuto import Client, Generation, SostenutoError, Stream, TextDelta
from sostenuto._cli.errors import Failure, check_place, failing_to
from sostenuto._cli.options import (
    FILE,
    chosen_model,
    connect,
    given_fields,
    model_option,
    sampling_options,
    server_options,
)
from sostenuto._cli.terminal import read_until_ctrl_c, say, text_or_stdin, write_json, write_text
from sostenuto._conversation import write_whole

_TOKEN = re.compile(r"ost\d+\.")  # prefix of every resume token

EPILOG = """\
\b
Examples:
  sostenuto generate "To be, or not " --max-tokens 300 --temperature 0.5
  printf 'HAMLET.\\n' | sostenuto generate --seed 7 > story.txt
  sostenuto generate "To be, or not " --save-state story.state
  sostenuto generate --state story.state --max-tokens 50

With -n 3 the completions are printed one after another, each under a header line: ==> 1 of 3 <==. With --json --stream
each text delta is a line of JSON with index, text and finish_reason, and the last line is the whole response."""


def resume_token(argument: str) -> str:
    """Return a resume token, given directly or as the name of a file; raise Failure if there is none in the file."""
    if _TOKEN.match(argument):
        return argument
    with failing_to(f"read the resume token in {argument:.60}"):
        content = Path(argument).read_bytes().decode("utf-8", "replace").strip()
    if not _TOKEN.match(content):
        raise Failure(f"{argument} has no resume token: pass a file of --save-state")
    return content


@click.command(epilog=EPILOG, short_help="Generate text that continues PROMPT.")
@click.argument("prompt", required=False)
@model_option
@sampling_options
@click.option("-n", "--n", type=click.IntRange(min=1), metavar="N", help="Number of completions.")
@click.option(
    "--suffix",
    metavar="TEXT",
    help="For a backward model, instead of PROMPT: the end of the text; the model generates the text before it.",
)
@click.option("--echo", is_flag=True, default=None, help="Print the prompt, too.")
@click.option("--top-texts", type=int, metavar="N", help="Print the N most probable completions instead of sampling.")
@click.option(
    "--beam-search", "use_beam_search", is_flag=True, default=None, help="Search with a beam of -n completions instead."
)
@click.option("--length-penalty", type=float, metavar="X", help="With --beam-search: above 1 favors long completions.")
@click.option("--logprobs", type=int, metavar="N", help="With --json: number of alternatives per token.")
@click.option(
    "--state",
    type=resume_token,
    metavar="FILE|TOKEN",
    help="Resume from a resume token, or from a file written by --save-state. PROMPT, if given, is appended; the "
    "earlier text is not processed again.",
)
@click.option(
    "--save-state",
    type=FILE,
    metavar="FILE",
    help="Write the resume token to this file, also after an error or Ctrl-C that interrupted the text.",
)
@click.option(
    "--resume/--no-resume",
    default=None,
    help="Resume after a lost connection; the text is byte-identical.  [default: on for a stream of one completion]",
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
    searches = options["top_texts"] is not None or options["use_beam_search"]
    several = (options["n"] or 1) > 1 or searches
    stream = stream if stream is not None else not (as_json or several)
    _check(several, stream, resume, as_json, options["logprobs"], save_state)
    if options["state"] is not None:
        options["model"] = chosen_model(options["model"])
    fields = {**given_fields(options), **_beginning(prompt, suffix, options["state"])}
    if save_state is not None:
        check_place(save_state)
        fields["return_state"] = True
        if stream:
            # With every text delta, so that there is one for the text before Ctrl-C.
            fields["stream_options"] = {"state_interval": 1}
    began_at_s = monotonic()
    with connect() as client:
        try:
            if stream or resume:
                fields["resume"] = not several if resume is None else resume
                response = _stream(client, fields, stream, as_json, save_state)
                generation = response.generation
            else:
                generation = client.generate(**fields)
        except SostenutoError as error:
            if not stream and save_state is not None and error.state is not None:
                # The state continues after this text.
                partial_json = {"choices": [asdict(choice) for choice in error.choices]}
                write_json(partial_json) if as_json else write_text(error.text)
            _save_state(error.state, save_state)
            raise
    _save_state(generation.state, save_state)
    if as_json:
        write_json(generation.raw)
    elif not stream:
        _write_choices(generation)
    if stream and sys.stderr.isatty() and not quiet:
        say(_summary(response, monotonic() - began_at_s), dim=True)


def _check(
    several: bool, stream: bool, resume: bool | None, as_json: bool, logprobs: int | None, save_state: Path | None
) -> None:
    if several and stream and not as_json:
        raise click.UsageError("--stream prints one completion: omit it, or -n, or add --json")
    if several and resume:
        raise click.UsageError("--resume is for a single completion: omit it, or -n, --top-texts and --beam-search")
    if several and save_state is not None:
        raise click.UsageError("--save-state is for a single completion: omit -n, --top-texts and --beam-search")
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


def _stream(client: Client, fields: dict[str, Any], is_shown: bool, as_json: bool, save_state: Path | None) -> Stream:
    """Read a stream, and return it at its end; if it is shown, write its text deltas as they arrive."""
    stream = client.stream(**fields)

    def show(delta: TextDelta) -> None:
        if not is_shown:
            return
        if as_json:
            write_json({"index": delta.index, "text": delta.text, "finish_reason": delta.finish_reason})
        else:
            write_text(delta.text)

    try:
        try:
            read_until_ctrl_c(stream.events(), show, stream.close)
        finally:
            if is_shown and not as_json and sys.stdout.isatty():
                write_text("\n")
    except (KeyboardInterrupt, BrokenPipeError) as error:
        state = stream.generation.state if is_shown else None  # of the printed text
        _save_state(state, save_state)
        if state is None and save_state is not None and not isinstance(error, BrokenPipeError):
            say(f"{save_state} was not written: there was no resume token yet", dim=True)
        raise
    return stream


def _write_choices(generation: Generation) -> None:
    if len(generation.choices) == 1:
        return write_text(generation.text)
    for choice in generation.choices:
        write_text(f"==> {choice.index + 1} of {len(generation.choices)} <==\n{choice.text}\n")
    return None


def _save_state(state: str | None, path: Path | None) -> None:
    if state is not None and path is not None:
        with failing_to(f"write {path}"):
            write_whole(path, state + "\n")


def _summary(stream: Stream, seconds: float) -> str:
    generation = stream.generation
    num_tokens = generation.usage.completion_tokens if generation.usage else 0
    facts = [f"{num_tokens:,} tokens", f"{num_tokens / seconds:,.0f} tokens/s", f"seed {generation.seed}"]
    if stream.num_resumed:
        facts.append(f"resumed {stream.num_resumed}×")
    return " · ".join([*facts, str(generation.finish_reason)])
