"""`python -m service.batch IN OUT`: send a file of requests to a running gateway and write a file of responses.

IN has the format of OpenAI's Batch API input files, and OUT that of its output files, unless --format says otherwise.
After an interruption the same command resumes: it appends to OUT, and does not repeat requests that OUT has.
"""

import argparse
import math
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from service.batch.client import ClientOptions
from service.batch.cluster import LOCAL, Cluster
from service.batch.errors import BatchError, Stopped
from service.batch.formats import CSV, ESCAPED_CSV, FORMATS, OPENAI
from service.batch.run import MAX_CONCURRENCY, Options, run

BASE_URL = "http://127.0.0.1:8000"
EXIT_CODES = """exit codes:
  0    every line of IN has a successful response in OUT
  1    every line of IN has a line in OUT or in OUT.errors.jsonl, some of them errors
  2    IN, OUT or an option is invalid
  3    stopped: the gateway is unavailable, refuses the API key or is not a gateway; the same command resumes.
       Or OUT was removed, renamed or replaced during the run
  130  Ctrl-C; the same command resumes

The API key is read from SOSTENUTO_API_KEY alone: an option would be visible to everybody in the list of processes.
Proxies are those of HTTP_PROXY, HTTPS_PROXY and NO_PROXY."""
RESUME_HINT = "completed lines are kept, and the same command resumes"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m service.batch",
        description=__doc__,
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("source", type=_source, metavar="IN", help="file of requests, one JSON object per line")
    add("target", type=Path, metavar="OUT", help="file of responses, in order of completion; appended to")
    help_text = (
        "format of OUT: openai has whole responses; jsonl and csv have only custom_id, index, text and finish_reason, "
        "a line of JSON or of CSV per choice, and put errors in OUT.errors.jsonl (default: openai)"
    )
    add("--format", choices=FORMATS, default=OPENAI.name, dest="output_format", help=help_text)
    help_text = (
        "with --format csv: put an apostrophe before cells that begin with =, +, -, @, a tab or a line break, which "
        "spreadsheets would evaluate"
    )
    add("--escape-formulas", action="store_true", help=help_text)
    base_url = os.environ.get("SOSTENUTO_BASE_URL") or BASE_URL
    help_text = f"URL of the gateway (default: SOSTENUTO_BASE_URL, else {BASE_URL})"
    add("--base-url", default=base_url, metavar="URL", help=help_text)
    help_text = f"concurrent requests (default: as many as the gateway admits, up to {MAX_CONCURRENCY})"
    add("--concurrency", type=_count, metavar="N", help=help_text)
    help_text = "timeout of one response; a request that takes longer becomes an error (default: 660)"
    add("--timeout", type=_seconds, default=660.0, metavar="SECONDS", help=help_text)
    help_text = "stop after this time without any response (default: 600)"
    add("--give-up-after", type=_seconds, default=600.0, metavar="SECONDS", help=help_text)
    help_text = "remove errors from OUT or OUT.errors.jsonl, and retry their requests"
    add("--retry-errors", action="store_true", help=help_text)
    help_text = "send the requests from Ray workers, of the cluster at ADDRESS or of one started here for this run"
    add("--ray", nargs="?", const=LOCAL, metavar="ADDRESS", help=help_text)
    help_text = "with --ray: number of workers, which share the concurrent requests (default: one per machine)"
    add("--ray-workers", type=_count, metavar="N", help=help_text)
    return parser


def _source(text: str) -> Path:
    if text == "-":
        raise argparse.ArgumentTypeError("must be a file, as it is read twice and again on resume; got -")
    return Path(text)


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= 4096):
        raise argparse.ArgumentTypeError(f"must be a number from 1 to 4096, got {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= 10**6:
        raise argparse.ArgumentTypeError(f"must be seconds, more than 0 and at most 1,000,000, got {text!r}")
    return seconds


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the batch and return the exit code."""
    options = _options(arguments)
    try:
        return 0 if run(options) else 1
    except BatchError as error:
        print(f"error: {error}" + (f"; {RESUME_HINT}" if isinstance(error, Stopped) else ""), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"stopped; {RESUME_HINT}", file=sys.stderr)
        return 128 + signal.SIGINT


def _options(arguments: Sequence[str] | None) -> Options:
    parser = _parser()
    parsed = parser.parse_args(arguments)
    if parsed.ray_workers and parsed.ray is None:
        parser.error("--ray-workers requires --ray")
    output_format = FORMATS[parsed.output_format]
    if parsed.escape_formulas:
        if output_format is not CSV:
            parser.error(f"--escape-formulas requires --format csv, got {output_format.name}")
        output_format = ESCAPED_CSV
    api_key = os.environ.get("SOSTENUTO_API_KEY", "")
    return Options(
        source=parsed.source,
        target=parsed.target,
        output_format=output_format,
        client=ClientOptions(parsed.base_url, api_key, parsed.timeout, parsed.give_up_after),
        concurrency=parsed.concurrency,
        retry_errors=parsed.retry_errors,
        ray=None if parsed.ray is None else Cluster(parsed.ray, parsed.ray_workers),
    )


if __name__ == "__main__":
    sys.exit(main())
