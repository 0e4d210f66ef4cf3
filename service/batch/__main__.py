"""`python -m service.batch IN OUT`: answer a file of requests by a running gateway.

IN and OUT have the lines of OpenAI's batches. What is killed goes on by the same command: OUT is only added to, and
what it answers is not asked again.
"""

import argparse
import math
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from service.batch.cluster import LOCAL, Cluster
from service.batch.errors import BatchError, Stopped
from service.batch.gateway import Address
from service.batch.run import MAX_CONCURRENCY, Options, run

BASE_URL = "http://127.0.0.1:8000"
EXIT_CODES = """exit codes:
  0    every line was answered with success
  1    every line has its line in OUT, some of them errors
  2    IN, OUT or an option cannot be used
  3    given up: the gateway is gone, lets nobody in, or is none; the same command goes on
  130  Ctrl-C; the same command goes on

The API key is read from OSTINATO_API_KEY alone: as an option, everybody on the machine would see it in the list of
processes. Proxies are those of HTTP_PROXY, HTTPS_PROXY and NO_PROXY."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m service.batch",
        description=__doc__,
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("source", type=_source, metavar="IN", help="file of requests, one JSON object a line")
    add("target", type=Path, metavar="OUT", help="file of answers, in the order in which they come; added to")
    base_url = os.environ.get("OSTINATO_BASE_URL") or BASE_URL
    help_text = f"address of the gateway (default: OSTINATO_BASE_URL, else {BASE_URL})"
    add("--base-url", default=base_url, metavar="URL", help=help_text)
    help_text = f"requests at once (default: as many as the gateway has room for, up to {MAX_CONCURRENCY})"
    add("--concurrency", type=_count, metavar="N", help=help_text)
    help_text = "for one answer; a request that takes longer becomes an error (default: 660)"
    add("--timeout", type=_seconds, default=660.0, metavar="SECONDS", help=help_text)
    help_text = "end when nothing was answered for so long (default: 600)"
    add("--give-up-after", type=_seconds, default=600.0, metavar="SECONDS", help=help_text)
    add("--retry-errors", action="store_true", help="answer the errors of OUT again; they are taken out of it")
    help_text = "have Ray's workers send the requests, of the cluster at ADDRESS or of one made here for this run"
    add("--ray", nargs="?", const=LOCAL, metavar="ADDRESS", help=help_text)
    help_text = "with --ray: workers, which share the requests at once (default: one for each machine)"
    add("--ray-workers", type=_count, metavar="N", help=help_text)
    return parser


def _source(text: str) -> Path:
    if text == "-":
        raise argparse.ArgumentTypeError("must be a file, as it is read twice and again when a run goes on; got -")
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
    if not 0 < seconds <= 10**7:
        raise argparse.ArgumentTypeError(f"must be seconds, more than 0 and at most 10,000,000, got {text!r}")
    return seconds


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the batch and return the exit code."""
    options = _options(arguments)
    try:
        return 0 if run(options) else 1
    except BatchError as error:
        hint = "; what is done is kept, and the same command goes on" if isinstance(error, Stopped) else ""
        print(f"error: {error}{hint}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped; what is done is kept, and the same command goes on", file=sys.stderr)
        return 128 + signal.SIGINT


def _options(arguments: Sequence[str] | None) -> Options:
    parser = _parser()
    parsed = parser.parse_args(arguments)
    if parsed.ray_workers and parsed.ray is None:
        parser.error("--ray-workers is about --ray, which is not given")
    return Options(
        source=parsed.source,
        target=parsed.target,
        address=Address(parsed.base_url, os.environ.get("OSTINATO_API_KEY") or None, parsed.timeout),
        concurrency=parsed.concurrency,
        give_up_after_s=parsed.give_up_after,
        retry_errors=parsed.retry_errors,
        ray=None if parsed.ray is None else Cluster(parsed.ray, parsed.ray_workers),
    )


if __name__ == "__main__":
    sys.exit(main())
