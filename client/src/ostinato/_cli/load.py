"""Load on a server, and how it bears it: many streams at once, their times. It shows nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from time import monotonic
from typing import TYPE_CHECKING, Any, Callable

from ostinato._concurrency import in_order

if TYPE_CHECKING:
    from ostinato import Client


@dataclass(frozen=True)
class Request:
    """How one stream went.

    Attributes:
        num_tokens: int. Tokens that it brought.
        first_s: float. Seconds from the request to the first text.
        gaps_s: tuple of float. Seconds between each piece of text and the next.
    """

    num_tokens: int
    first_s: float
    gaps_s: tuple[float, ...]


@dataclass(frozen=True)
class Round:
    """So many requests, some at a time, and the seconds that all took."""

    seconds: float
    requests: tuple[Request, ...]

    @property
    def tokens_per_s(self) -> float:
        """Tokens of all requests over the time of all."""
        return sum(request.num_tokens for request in self.requests) / self.seconds

    @property
    def firsts_s(self) -> list[float]:
        """Seconds to the first text."""
        return [request.first_s for request in self.requests]

    @property
    def gaps_s(self) -> list[float]:
        """Seconds between pieces of text."""
        return [gap for request in self.requests for gap in request.gaps_s]


@dataclass(frozen=True)
class Figure:
    """A figure of several rounds: their median and their range."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Figure:
        """Sum values up; those that are nan, as nothing was measured, don't count."""
        known = [value for value in values if not math.isnan(value)]
        return cls(median(known), min(known), max(known)) if known else cls(math.nan, math.nan, math.nan)


def run_round(
    client: Client, concurrency: int, num_requests: int, fields: dict[str, Any], done: Callable[[], None]
) -> Round:
    """Send requests, so many at a time, and read their streams to the end.

    Args:
        client: Of the server.
        concurrency: How many at a time.
        num_requests: How many.
        fields: Arguments of `Client.stream`; each request has another seed.
        done: Called by several threads, after each request.

    Raises:
        OstinatoError: one of them failed; no further ones are sent.
    """

    def send(number: int) -> Request:
        request = run_request(client, {**fields, "seed": number})
        done()
        return request

    began_at_s = monotonic()
    made = in_order(send, range(num_requests), lambda: concurrency, show_progress=False, return_errors=False)
    requests = tuple(request for request in made if isinstance(request, Request))
    return Round(monotonic() - began_at_s, requests)


def run_request(client: Client, fields: dict[str, Any], clock: Callable[[], float] = monotonic) -> Request:
    """Send one request, and note when its pieces come."""
    began_at_s = clock()
    moments_s = []
    with client.stream(**fields) as stream:
        for _ in stream:
            moments_s.append(clock())
    usage = stream.generation.usage
    return Request(
        num_tokens=usage.completion_tokens if usage else 0,
        first_s=moments_s[0] - began_at_s if moments_s else math.nan,
        gaps_s=tuple(after - before for before, after in zip(moments_s, moments_s[1:])),
    )


def quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that so large a share of them does not exceed; nan if there is none."""
    in_order = sorted(values)
    return in_order[max(0, math.ceil(share * len(in_order)) - 1)] if in_order else math.nan
