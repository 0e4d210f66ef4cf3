"""The formats of OUT, by the name that `--format` has. Does not know files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from sostenuto._batch.choice_records import (
    COLUMNS,
    choice_records,
    read_csv,
    read_escaped_csv,
    read_json,
    write_csv,
    write_escaped_csv,
    write_json,
)
from sostenuto._batch.output_record import OutputLine, OutputRecord, read_output_lines, response_line
from sostenuto._batch.requests_file import COMPLETIONS, URLS


@dataclass(frozen=True)
class OutputFormat:
    """A format of OUT.

    Attributes:
        name: The name.
        urls: Endpoints whose responses it can represent.
        has_errors: Whether errors are lines of OUT; otherwise they go to a file of their own, in OpenAI's format.
        header: The beginning of OUT.
        serialize: Returns what a response adds to OUT: (custom_id, status, request id, body). An error is in OpenAI's
            format. Raises LineError if the format cannot represent the response.
        read: Yields what each response has added, as bytes and parsed, from the lines after the header; ends before
            what a killed run left incomplete. Raises ForeignContent.
    """

    name: str
    urls: tuple[str, ...]
    has_errors: bool
    header: bytes
    serialize: Callable[[str, int, str | None, bytes], OutputLine]
    read: Callable[[Iterable[bytes]], Iterator[tuple[bytes, OutputRecord]]]


OPENAI = OutputFormat("openai", URLS, True, b"", response_line, read_output_lines)
JSONL = OutputFormat("jsonl", (COMPLETIONS,), False, b"", partial(choice_records, write_json), read_json)
CSV = OutputFormat("csv", (COMPLETIONS,), False, write_csv(COLUMNS), partial(choice_records, write_csv), read_csv)
# The header is quoted, the same to programs: a run without the option is refused on this OUT, and the other way round.
ESCAPED_CSV = OutputFormat(
    "csv --escape-formulas",
    (COMPLETIONS,),
    False,
    b",".join(b'"%b"' % name.encode() for name in COLUMNS) + b"\r\n",
    partial(choice_records, write_escaped_csv),
    read_escaped_csv,
)
FORMATS = {each.name: each for each in (OPENAI, JSONL, CSV)}
