"""`sostenuto batch`: send a file of requests to a server and write a file of responses."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sostenuto import InvalidArgument, Report
from sostenuto._cli import INTERRUPTED
from sostenuto._cli.errors import Failure, error_line
from sostenuto._cli.options import FILE, api_key, given_options, seconds, server_options
from sostenuto._cli.report import ReportProgress, save
from sostenuto._cli.terminal import as_json, say
from sostenuto._reports import require_extra
from sostenuto._settings import resolve

if TYPE_CHECKING:
    from sostenuto._batch.run import Options

TIMEOUT_S, MAX_RETRIES = 660.0, 3
COUNT = click.IntRange(1, 4096)
LOCAL = "local"
RESUME_HINT = "completed lines are kept, and the same command resumes"
NEEDED = {"numpy", "orjson"}
MISSING = "batch files need further packages: pip install 'sostenuto[batch]'"

EPILOG = """\
\b
Examples:
  sostenuto batch in.jsonl out.jsonl
  sostenuto batch in.jsonl out.csv --format csv
  sostenuto batch in.jsonl out.csv --format csv --training list.txt

\b
Exit codes:
  0    every line of IN has a successful response in OUT
  1    every line of IN has a line in OUT or in OUT.errors.jsonl, some of them
       errors
  2    IN, OUT or an option is invalid
  3    stopped: the server is unavailable, refuses the API key or is not a
       Sostenuto server; the same command resumes. Or OUT was removed, renamed
       or replaced during the run
  130  interrupted by Ctrl-C; the same command resumes

Proxies are those of HTTP_PROXY, HTTPS_PROXY and NO_PROXY."""


def _source(value: str) -> Path:
    if value == "-":
        raise click.BadParameter("must be a file, as it is read twice and again on resume; got -")
    return Path(value)


@click.command(epilog=EPILOG, short_help="Send a file of requests; write a file of responses.")
@click.argument("source", type=_source, metavar="IN")
@click.argument("target", type=click.Path(path_type=Path), metavar="OUT")
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["openai", "jsonl", "csv"]),
    default="openai",
    help="Format of OUT: openai has whole responses; jsonl and csv have only custom_id, index, text and finish_reason, "
    "a line of JSON or of CSV per choice, and put errors in OUT.errors.jsonl.",
)
@click.option(
    "--escape-formulas",
    is_flag=True,
    help="With --format csv: put an apostrophe before cells that begin with =, +, -, @, a tab or a line break, which "
    "spreadsheets would evaluate.",
)
@click.option(
    "--concurrency",
    type=COUNT,
    metavar="N",
    help="Concurrent requests.  [default: as many as the server admits, up to 64]",
)
@click.option(
    "--give-up-after", type=seconds, default=600.0, metavar="SECONDS", help="Stop after this time without any response."
)
@click.option(
    "--retry-errors", is_flag=True, help="Remove errors from OUT or OUT.errors.jsonl, and retry their requests."
)
@click.option(
    "--ray",
    is_flag=False,
    flag_value=LOCAL,
    metavar="[ADDRESS]",
    help="Send the requests from Ray workers, of the cluster at ADDRESS or of one started here for this run.",
)
@click.option(
    "--ray-workers",
    type=COUNT,
    metavar="N",
    help="With --ray: number of workers, which share the concurrent requests.  [default: one per machine]",
)
@click.option(
    "--training",
    type=FILE,
    metavar="FILE",
    help="Report how good the generated texts are, against these records that the model was trained on; the report is "
    "in OUT.report.html and OUT.report.json.",
)
@click.option(
    "--held-out",
    type=FILE,
    metavar="FILE",
    help="With --training: real records for the report, which it was not trained on.",
)
@partial(server_options, read_s=TIMEOUT_S, max_retries=MAX_RETRIES)
def batch(training: Path | None, held_out: Path | None, **options: Any) -> None:
    """Send a file of requests to a server, and write a file of responses.

    IN has the format of OpenAI's Batch API input files, one JSON object per line; OUT that of its output files, in
    order of completion, unless --format says otherwise. After an interruption the same command resumes: it appends to
    OUT, and does not repeat requests that OUT has. A request that takes longer than --timeout becomes an error.
    """
    try:
        from sostenuto._batch import errors  # noqa: PLC0415 - packages of the extra `batch`
        from sostenuto._batch.run import run  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if error.name == "fcntl":
            raise Failure("batch needs the file locks of Linux, macOS or WSL2") from None
        if error.name not in NEEDED:
            raise
        raise Failure(MISSING) from None
    _check_report(training, held_out, escape_formulas=options["escape_formulas"])
    chosen = _options(**options)
    try:
        code = 0 if run(chosen) else 1
        if training is not None:
            try:
                _report(chosen, training, held_out)
            except InvalidArgument as error:
                if code == 0:
                    raise
                say(f"no report: {error}")
    except errors.BatchError as error:
        say(error_line(error) + (f"; {RESUME_HINT}" if isinstance(error, errors.Stopped) else ""))
        code = error.exit_code
    except KeyboardInterrupt:
        say(f"stopped; {RESUME_HINT}")
        code = INTERRUPTED
    click.get_current_context().exit(code)


def _check_report(training: Path | None, held_out: Path | None, *, escape_formulas: bool) -> None:
    """Raise an error, before anything is sent, if the options of a report are invalid or it cannot be computed."""
    if training is None:
        if held_out is not None:
            raise click.UsageError("--held-out requires --training")
        return
    if escape_formulas:
        raise click.UsageError("--escape-formulas and --training exclude each other: a report is on unchanged texts")
    require_extra()
    for path in filter(None, (training, held_out)):
        if not os.access(path, os.R_OK):
            raise Failure(f"cannot read {path}: pass a file that exists and is readable")


def _report(options: Options, training: Path, held_out: Path | None) -> None:
    """Report on the texts of OUT: print a summary, and write the rest to files beside it."""
    file_format = "csv" if options.output_format.name == "csv" else "jsonl"
    with ReportProgress() as progress:
        found = Report.compute(
            options.target, training, held_out=held_out, generated_format=file_format, observe=progress.show
        )
    for suffix, text in ((".report.html", found.to_html()), (".report.json", as_json(found.data))):
        save(text, options.target.with_name(options.target.name + suffix))
    say(found.summary())


def _options(*, output_format: str, escape_formulas: bool, give_up_after: float, **others: Any) -> Options:
    from sostenuto._batch.client import CONNECT_TIMEOUT_S  # noqa: PLC0415 - as above
    from sostenuto._batch.formats import CSV, ESCAPED_CSV, FORMATS  # noqa: PLC0415
    from sostenuto._batch.run import Options  # noqa: PLC0415

    if others["ray_workers"] and others["ray"] is None:
        raise click.UsageError("--ray-workers requires --ray")
    if escape_formulas and output_format != CSV.name:
        raise click.UsageError(f"--escape-formulas requires --format csv, got {output_format}")
    given = given_options()
    timeout, max_retries = (CONNECT_TIMEOUT_S, given.get("timeout", TIMEOUT_S)), given.get("retries", MAX_RETRIES)
    return Options(
        output_format=ESCAPED_CSV if escape_formulas else FORMATS[output_format],
        settings=resolve(given.get("base_url"), api_key(), timeout, max_retries),
        give_up_after_s=give_up_after,
        **others,
    )
