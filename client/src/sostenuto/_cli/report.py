"""`sostenuto report`: how good generated records are, without a server."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import click
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from sostenuto import Report
from sostenuto._cli.errors import Failure, check_place, failing_to
from sostenuto._cli.options import FILE, parse_schema
from sostenuto._cli.terminal import as_json, console, say, write_text

INTERVAL_S = 30.0  # between two lines where there is no terminal
LONGEST_S = 3600.0

EPILOG = """\
\b
Examples:
  sostenuto report new-names.txt --training names.txt --html report.html
  sostenuto report out.csv --training list.txt --held-out rest.txt --pattern "[A-Z][a-z]+"
  sostenuto report rows.txt --training table.csv --json - | jq .generated.correlations
  sostenuto report smiles.txt --training train.smi --smiles --validator checks:canonical

Formats are those of training: .csv and .jsonl have a text, or prompt and completion, per record; without these columns
a record is the whole row, and each column is compared. All other files have one record per line. GENERATED may also be
what `sostenuto batch` wrote."""


@click.command(epilog=EPILOG, short_help="Report how good generated records are.")
@click.argument("generated", type=FILE)
@click.option("--training", type=FILE, required=True, metavar="FILE", help="Records that the model was trained on.")
@click.option(
    "--held-out", type=FILE, metavar="FILE", help="Real records that it was not trained on: they get the same report."
)
@click.option("--pattern", metavar="REGEX", help="A valid record matches this, as a whole; Python's syntax.")
@click.option(
    "--json-schema", type=parse_schema, metavar="FILE|JSON", help="A valid record is JSON that is valid against this."
)
@click.option(
    "--validator",
    metavar="MODULE:FUNCTION",
    help="Python function that gets a record and returns whether it is valid, or its canonical form, or None. It runs "
    "in separate processes.",
)
@click.option(
    "--validator-timeout",
    type=click.FloatRange(0, LONGEST_S, min_open=True),
    default=10.0,
    metavar="SECONDS",
    help="Limit of the validator's time for a record; beyond it the record is invalid.",
)
@click.option("--smiles", is_flag=True, help="Add the metrics of MOSES under their names, except FCD.")
@click.option(
    "--format",
    "file_format",
    type=click.Choice(["lines", "csv", "jsonl"]),
    help="Format of all files.  [default: by their suffixes]",
)
@click.option("--field", metavar="NAME", help="Column that is the text of a record.")
@click.option(
    "--columns", metavar="NAME,...", help="Names of the columns of records that are lines of CSV without a header."
)
@click.option(
    "--near",
    type=click.FloatRange(0, 1),
    default=0.2,
    metavar="X",
    help="Near copies have at most this normalized edit distance to a training record.",
)
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, metavar="N", help="Seed of samples and folds.")
@click.option("--html", type=FILE, metavar="FILE", help="Write the report as a page with plots.")
@click.option(
    "--json", "json_file", metavar="FILE|-", help="Write all numbers as JSON; - prints them instead of the summary."
)
def report(
    generated: Path, training: Path, *, html: Path | None, json_file: str | None, columns: str | None, **options: Any
) -> None:
    """Compare the records of GENERATED with those of the training file, and print a summary.

    How many are valid, unique, novel and near copies; how far lengths, characters, n-grams and columns are from those
    of training; and how well a classifier tells generated from held-out records.
    """
    names = tuple(name.strip() for name in columns.split(",")) if columns else ()
    _check_outputs(
        [generated, training, *filter(None, [options["held_out"]])],
        [path for path in (html, None if json_file in {None, "-"} else Path(str(json_file))) if path is not None],
    )
    with ReportProgress() as progress:
        found = Report.compute(generated, training, columns=names, observe=progress.show, **options)
    if json_file not in {None, "-"}:
        save(as_json(found.data), Path(str(json_file)))
    if html is not None:
        save(found.to_html(), html)
    return write_text(as_json(found.data) if json_file == "-" else f"{found.summary()}\n")


def _check_outputs(inputs: Sequence[Path], outputs: Sequence[Path]) -> None:
    """Raise Failure, before anything is computed, if an output cannot be written, or would replace another file."""
    used = {path.resolve() for path in inputs}
    for path in outputs:
        if path.is_file() or not path.exists():
            check_place(path)
        if path.resolve() in used:
            raise Failure(f"cannot write the report to {path}: another argument names the same file")
        used.add(path.resolve())


def save(text: str, path: Path) -> None:
    with failing_to(f"write {path}"):
        # Half of a surrogate pair cannot be written as UTF-8.
        path.write_text(text, encoding="utf-8", errors="replace")
    say(f"wrote {path}")


class ReportProgress(AbstractContextManager["ReportProgress"]):
    """Shows the progress of a report on standard error: a bar on a terminal, elsewhere a line every 30 seconds."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(24),
            TextColumn("{task.percentage:3.0f}%"),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, console=console(stderr=True), transient=True, disable=not self._is_terminal)
        self._task = self._bar.add_task("reading", total=1.0)
        self._begun_at = self._written_at = time.monotonic()
        self._bar.start()

    def show(self, part: float, step: str) -> None:
        """Show the completed share, from 0 to 1, and the current step."""
        self._bar.update(self._task, completed=part, description=step)
        now = time.monotonic()
        if not self._is_terminal and now - self._written_at >= INTERVAL_S and 0 < part < 1:
            self._written_at = now
            left_s = (now - self._begun_at) / part * (1 - part)
            say(f"{step}: {part:.0%}, {left_s:.0f} s left")

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()
