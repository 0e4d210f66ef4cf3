"""A load generator: concurrent streams and their latencies. Shows nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from time import monotonic
from typing import TYPE_CHECKING, Any, Callable

from sostenuto._concurrency import in_order

if TYPE_CHECKING:
    from sostenuto import Client


@dataclass(frozen=True)
class Request:
    """Timings of one streamed request.

    Attributes:
        num_tokens: int. Completion tokens.
        first_s: float. Seconds from the request to the first text delta (TTFT).
        gaps_s: tuple of float. Seconds between consecutive text deltas.
    """

    num_tokens: int
    first_s: float
    gaps_s: tuple[float, ...]


@dataclass(frozen=True)
class Round:
    """One round of a benchmark: its requests and its total duration in seconds."""

    seconds: float
    requests: tuple[Request, ...]

    @property
    def tokens_per_s(self) -> float:
        """Throughput: tokens of all requests per second of the round."""
        return sum(request.num_tokens for request in self.requests) / self.seconds

    @property
    def firsts_s(self) -> list[float]:
        """Seconds to the first text delta, per request."""
        return [request.first_s for request in self.requests]

    @property
    def gaps_s(self) -> list[float]:
        """Seconds between consecutive text deltas, over all requests."""
        return [gap for request in self.requests for gap in request.gaps_s]


@dataclass(frozen=True)
class Figure:
    """A metric over several rounds: median and range."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Figure:
        """Summarize values; ignores nan, which means that nothing was measured."""
        measured = [value for value in values if not math.isnan(value)]
        return cls(median(measured), min(measured), max(measured)) if measured else cls(math.nan, math.nan, math.nan)


def run_round(
    client: Client, concurrency: int, num_requests: int, fields: dict[str, Any], done: Callable[[], None]
) -> Round:
    """Send concurrent requests and read their streams to the end; `done` is called after each, by several threads.

    Each request is `Client.stream` with the fields and a seed of its own.

    Raises:
        SostenutoError: a request failed; no more are sent.
    """

    def send(number: int) -> Request:
        request = run_request(client, {**fields, "seed": number})
        done()
        return request

    began_at_s = monotonic()
    results = in_order(send, range(num_requests), lambda: concurrency, show_progress=False, return_errors=False)
    requests = tuple(result for result in results if isinstance(result, Request))
    return Round(monotonic() - began_at_s, requests)


def run_request(client: Client, fields: dict[str, Any], clock: Callable[[], float] = monotonic) -> Request:
    """Stream one request and record the arrival times of its text deltas."""
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
    """Return the smallest value that at least this share of the values do not exceed; nan if there are none."""
    in_order = sorted(values)
    return in_order[max(0, math.ceil(share * len(in_order)) - 1)] if in_order else math.nan
