"""`sostenuto score`: how surprising each line of a file is to a model."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import click

from sostenuto import Client, Score
from sostenuto._cli.errors import Failure, failing_to
from sostenuto._cli.options import FILE, connect, label_option, model_option, server_options
from sostenuto._cli.terminal import STDIN, lines_of, on_one_line, print_table, say, text_argument, write_text
from sostenuto._concurrency import Progress
from sostenuto._report.records import csv_line, csv_reader
from sostenuto._results import shortened

MAX_SHOWN = 24  # characters of a text in the table
COLUMNS = ("nats", "nats_per_token", "nats_per_character", "num_tokens", "percentile")

EPILOG = """\
\b
Examples:
  sostenuto score app.log --csv > scores.csv
  sostenuto score new.log --held-out normal.log --false-positive-rate 0.001 --csv -o scores.csv
  sostenuto score domains.txt --ratio-to generated-domains --json | jq .ratio
  sostenuto score --text "To be, or not to be"

A line without a score, as an empty one may be, has no nats_per_token, nats_per_character or percentile. Held-out lines
are normal ones that the model was not trained on."""


@click.command(epilog=EPILOG, short_help="Score each line of FILE: how surprising it is.")
@click.argument("source", required=False, metavar="[FILE|-]")
@click.option("--text", metavar="TEXT", help="Score this text instead of a file.")
@click.option("--csv", "row_format", flag_value="csv", help="Write CSV, with a header and a row per line.")
@click.option("--json", "row_format", flag_value="json", help="Write JSON Lines, an object per line.")
@click.option(
    "-o", "--output", type=FILE, metavar="FILE", help="Write to FILE; after an interruption, continue after its rows."
)
@click.option(
    "--carry-state",
    is_flag=True,
    help="Score each line after those before it, with its line break, as one text. Slower: one request at a time.",
)
@click.option(
    "--whole/--excerpts",
    default=None,
    help="Whether each line is a whole document, whose beginning and end are scored, too.  [default: --whole for "
    "models of short documents, such as lines]",
)
@click.option("--ratio-to", metavar="NAME", help="Second model: add the log-likelihood ratio of each line.")
@click.option(
    "--held-out", type=FILE, metavar="FILE", help="Normal lines: flag those of the input that are more surprising."
)
@click.option(
    "--false-positive-rate",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    metavar="X",
    help="With --held-out: share of its lines that are above the threshold.",
)
@click.option("--concurrency", type=click.IntRange(1, 64), metavar="N", help="Concurrent requests.  [default: 4]")
@label_option
@model_option
@server_options
def score(source: str | None, *, text: str | None, model: str | None, **options: Any) -> None:
    """Score each line of FILE, or of standard input: its negative log probability in nats, their means and percentile.

    The percentile is that of nats per character among held-out texts of the model's training. With --held-out, a line
    is flagged if its nats per character are above the threshold, which the last line on standard error names; with
    --ratio-to, if the second model explains it better by more than the threshold.
    """
    if (options["held_out"] is None) != (options["false_positive_rate"] is None):
        raise click.UsageError("--held-out and --false-positive-rate need each other")
    if options["output"] and options["row_format"] is None:
        raise click.UsageError("--output needs --csv or --json")
    if text is not None and source is not None:
        raise click.UsageError("FILE and --text exclude each other: omit one")
    lines = Lines(None if source in {None, STDIN} else Path(str(source)))
    if text is not None:
        lines = Lines(None, text_argument(text, "text"))
    elif source is None and sys.stdin.isatty():
        raise click.UsageError("no input: name a file, pass --text, or pipe lines")
    with connect() as client:
        Run(client, model, **options).execute(lines)


@dataclass
class Lines:
    """The lines of a file, or of standard input if `path` is None; or one text."""

    path: Path | None
    text: str | None = None

    @property
    def name(self) -> str:
        if self.text is not None:
            return "--text"
        return "standard input" if self.path is None else str(self.path)

    @property
    def is_readable_again(self) -> bool:
        return self.path is not None or self.text is not None

    def count(self) -> int | None:
        """Return their number, None if it is not known before the end."""
        if self.text is not None:
            return 1
        if self.path is None or not self.path.is_file():
            return None
        with failing_to(f"read {self.path}"), self.path.open("rb") as file:
            return sum(1 for _ in file)

    def __iter__(self) -> Iterator[str]:
        """Yield each line without its line break; raise Failure if one is not UTF-8."""
        if self.text is not None:
            yield self.text
            return
        with ExitStack() as stack, failing_to(f"read {self.name}"):
            file = sys.stdin.buffer if self.path is None else stack.enter_context(self.path.open("rb"))
            yield from lines_of(file, self.name)


class Run:
    """Scores lines with one version of a model, and writes the rows."""

    def __init__(
        self,
        client: Client,
        model: str | None,
        *,
        row_format: str | None,
        output: Path | None,
        carry_state: bool,
        whole: bool | None,
        ratio_to: str | None,
        held_out: Path | None,
        false_positive_rate: float | None,
        concurrency: int | None,
        labels: dict[str, str] | None,
    ) -> None:
        self._client, self._row_format, self._output = client, row_format, output
        self._held_out, self._rate = held_out, false_positive_rate
        # All requests use the version that this one resolves.
        empty = client.score("", model=model, whole=whole, labels=labels, ratio_to=ratio_to)
        self._model, self._carries = empty.model, carry_state
        # An empty whole document still has its end to score. Line breaks are part of a running text.
        is_whole = empty.num_tokens > 0
        self._line_break = "\n" if carry_state and not is_whole else ""
        self._options: dict[str, Any] = {"model": empty.model, "whole": is_whole, "labels": labels}
        self._options |= {"ratio_to": ratio_to, "carry_state": carry_state}
        if concurrency is not None:
            self._options["concurrency"] = concurrency
        self._columns = (
            "text",
            *COLUMNS,
            *(["ratio"] if ratio_to else []),
            *(["flagged"] if held_out else []),
            "model",
        )

    def execute(self, lines: Lines) -> None:
        """Score the lines, write their rows, and print how many are flagged."""
        threshold = None if self._held_out is None else self._threshold(Lines(self._held_out))
        rows = list[dict[str, Any]]()
        with self._writer(lines, threshold) as (write, num_before, num_flagged_before):
            num_rows, num_flagged = num_before, num_flagged_before
            for row in self._rows(lines, threshold, num_before):
                num_rows, num_flagged = num_rows + 1, num_flagged + row.get("flagged", False)
                write(row)
                rows += [row] if self._row_format is None else []
        if self._row_format is None:
            table = [[_cell(name, row[name]) for name in self._columns[:-1]] for row in rows]
            print_table([name.replace("_", " ") for name in self._columns[:-1]], table, numbers=_HEADINGS)
        if threshold is not None:
            say(f"threshold {threshold:.4f}: {num_flagged:,} of {num_rows:,} lines flagged")

    def _rows(self, lines: Lines, threshold: float | None, num_before: int) -> Iterator[dict[str, Any]]:
        for score in self._scores(lines, num_before):
            yield self._row(score, threshold)

    def _row(self, score: Score, threshold: float | None) -> dict[str, Any]:
        row = {name: getattr(score, name, None) for name in self._columns}
        row["text"] = score.text.removesuffix(self._line_break)
        if threshold is not None:
            surprise = self._surprise(score)
            row["flagged"] = surprise is not None and surprise > threshold
        return row

    def _scores(self, lines: Lines, num_before: int = 0) -> Iterator[Score]:
        """Yield the scores of the lines after the first `num_before`, and show progress."""
        total = lines.count()
        texts = (line + self._line_break for line in islice(lines, num_before, None))
        with Progress(total, shown=total != 1, num_done=num_before) as progress:
            progress.note = f", {lines.name}"
            for score in self._client.score_many(texts, **self._options):
                yield score
                progress.advance()

    def _surprise(self, score: Score) -> float | None:
        """Return the value that the threshold applies to; None if nothing was scored."""
        if score.ratio is not None:
            return -score.ratio if score.num_tokens else None
        return score.nats_per_character

    def _threshold(self, lines: Lines) -> float:
        """Return the threshold that at most the requested share of held-out lines is above."""
        found = [surprise for score in self._scores(lines) if (surprise := self._surprise(score)) is not None]
        assert self._rate is not None, "it is given with held-out lines"
        if len(found) * self._rate < 1:
            needed = math.ceil(1 / self._rate)
            rule = f"--false-positive-rate {self._rate:g} needs at least {needed:,} lines in {lines.name}"
            raise Failure(f"{rule}, got {len(found):,}")
        return sorted(found)[-1 - int(len(found) * self._rate)]

    @contextmanager
    def _writer(
        self, lines: Lines, threshold: float | None
    ) -> Iterator[tuple[Callable[[dict[str, Any]], object], int, int]]:
        """Yield a function that writes a line of output, and how many lines, and flagged ones, the output has."""
        if self._row_format is None:
            yield lambda _: None, 0, 0
            return
        header = csv_line(self._columns) + "\n" if self._row_format == "csv" else ""
        if self._output is None:
            write_text(header)
            yield lambda row: write_text(self._line(row)), 0, 0
            return
        with failing_to(f"write {self._output}"), self._output.open("a+b") as file:
            self._lock(file)
            num_rows, num_flagged = self._recover(file, header, lines, threshold)
            if not num_rows:
                file.write(header.encode())
            try:
                yield lambda row: file.write(self._line(row).encode()), num_rows, num_flagged
            except BaseException:
                file.flush()
                say(f"{self._output} has the rows so far; the same command continues after them")
                raise

    def _lock(self, file: io.BufferedRandom) -> None:
        """Lock the output for this process; raise Failure if another one writes it."""
        with suppress(ModuleNotFoundError):  # Windows has no such locks
            import fcntl  # noqa: PLC0415

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Failure(f"another run is writing {self._output}: wait, or name another file") from None

    def _line(self, row: dict[str, Any]) -> str:
        if self._row_format == "json":
            return json.dumps(row, ensure_ascii=False) + "\n"
        return csv_line(str(value).lower() if isinstance(value, bool) else value for value in row.values()) + "\n"

    def _recover(self, file: io.BufferedRandom, header: str, lines: Lines, threshold: float | None) -> tuple[int, int]:
        """Return how many complete lines, and flagged ones, a file has, and remove an incomplete last one.

        Raise Failure, and change nothing, if they are not those of this command.
        """
        file.seek(0)
        num_rows, last, end, num_flagged = 0, b"", 0, 0
        begins, then = (header.encode(), b"") if header else (b'{"text": ', f', "{self._columns[1]}": '.encode())
        for line in file:
            if not end and not (line.startswith(begins) and then in line):
                raise Failure(f"{self._output} has other columns: remove it, or name another file")
            if line.endswith(b"\n"):
                num_rows, last, end = num_rows + 1, line, end + len(line)
                if threshold is not None and (num_rows > 1 or not header):
                    num_flagged += self._is_flagged(line, threshold)
        num_rows -= bool(header and num_rows)
        if num_rows and self._carries:
            raise Failure(f"{self._output} has rows, and --carry-state begins with the first line: remove it")
        if num_rows and not lines.is_readable_again:
            raise Failure(f"{self._output} has rows, and {lines.name} cannot be read again: remove it, or name a file")
        if num_rows:
            self._require_same(last, next(islice(lines, num_rows - 1, None), None), threshold)
            say(f"continuing after {num_rows:,} rows of {self._output}")
        file.truncate(end if num_rows else 0)
        return num_rows, num_flagged

    def _is_flagged(self, line: bytes, threshold: float) -> bool:
        """Return whether a row is flagged; raise Failure unless it is by this threshold, but for its last digits."""
        row = self._parsed(line)
        if not row:
            raise Failure(f"{self._output} has other columns: remove it, or name another file")
        is_flagged = f"{row['flagged']}".lower() == "true"
        try:
            has_score = float(row["num_tokens"]) > 0
            surprise = -float(row["ratio"]) if "ratio" in self._columns else float(row["nats_per_character"])
        except (TypeError, ValueError):
            has_score, surprise = False, math.nan
        if is_flagged != (has_score and surprise > threshold) and not _is_close(surprise, threshold):
            raise Failure(f"{self._output} has rows by another threshold: remove it, or name another file")
        return is_flagged

    def _require_same(self, last: bytes, text: str | None, threshold: float | None) -> None:
        """Raise Failure unless the last row is that of the line, by the same model and options.

        Its numbers may differ in the last digits, as another machine may have computed them.
        """
        found = self._parsed(last)
        is_same = text is not None and (found.get("text"), found.get("model")) == (text, self._model)
        if is_same and text is not None:
            options = {name: self._options[name] for name in ("model", "whole", "labels", "ratio_to")}
            score = self._client.score(text + self._line_break, **options)
            expected = self._parsed(self._line(self._row(score, threshold)).encode())
            # Flags are compared with the threshold, in every row.
            is_same = all(_is_close(found[name], expected[name]) for name in self._columns if name != "flagged")
        if not is_same:
            what = f"the last row of {self._output} is not that of the same line by {self._model} with these options"
            raise Failure(f"{what}: remove the file, or name another one")

    def _parsed(self, line: bytes) -> dict[str, Any]:
        """Return the values of a row by column; none of a row that is malformed."""
        text = line.decode("utf-8", "replace")
        if self._row_format == "csv":
            try:
                values = next(csv_reader([text.rstrip("\n")]), [])
            except csv.Error:
                return {}
            return dict(zip(self._columns, values, strict=True)) if len(values) == len(self._columns) else {}
        try:
            row = json.loads(text)
        except ValueError:
            return {}
        return row if isinstance(row, dict) and [*row] == [*self._columns] else {}


def _is_close(found: Any, expected: Any) -> bool:
    try:
        return found == expected or math.isclose(float(found), float(expected), rel_tol=1e-3, abs_tol=1e-6)
    except (TypeError, ValueError):
        return False


_HEADINGS = tuple(name.replace("_", " ") for name in (*COLUMNS, "ratio"))


def _cell(name: str, value: Any) -> str | None:
    if name == "text":
        return shortened(on_one_line(value), MAX_SHOWN)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return None if value is None else f"{value:,}" if isinstance(value, int) else f"{value:,.3f}"
