"""A seed for each of many prompts: derived from one seed, or given one by one. Leaves the limits to the server."""

from __future__ import annotations

import operator
from collections.abc import Sized
from itertools import count, repeat
from typing import TYPE_CHECKING, TypeVar

from sostenuto._errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

Input = TypeVar("Input")


def with_seeds(
    prompts: Iterable[Input], seed: int | None, seeds: Sequence[int] | None
) -> Iterator[tuple[Input, int | None]]:
    """Pair each prompt with its seed: `seed` + index, an entry of `seeds`, or None if neither is given.

    Raises:
        InvalidArgument: both are given, one is not an int, or `seeds` does not have one entry per prompt. Without the
            number of prompts, it is raised by the iterator, after the pairs that exist.
    """
    if seeds is None:
        derived = repeat(None) if seed is None else count(_integer("seed", seed, ", or seeds with one per prompt"))
        return zip(prompts, derived)
    if seed is not None:
        raise InvalidArgument(f"seed is {seed!r} and seeds is given, too: pass one of them")
    given = [_integer(f"seeds[{index}]", entry, "") for index, entry in enumerate(seeds)]
    if isinstance(prompts, Sized) and len(prompts) != len(given):
        raise _wrong_length(len(given), f"{len(prompts):,}")
    return _one_by_one(prompts, given)


def _one_by_one(prompts: Iterable[Input], seeds: list[int]) -> Iterator[tuple[Input, int | None]]:
    num_prompts = 0
    for prompt in prompts:
        if num_prompts == len(seeds):
            raise _wrong_length(num_prompts, f"more than {num_prompts:,}")
        yield prompt, seeds[num_prompts]
        num_prompts += 1
    if num_prompts < len(seeds):
        raise _wrong_length(len(seeds), f"{num_prompts:,}")


def _integer(field: str, value: object, instead: str) -> int:
    try:
        return operator.index(value)  # type: ignore[arg-type]  # it raises for other types
    except TypeError:
        raise InvalidArgument(f"{field} is {value!r}: pass an int{instead}") from None


def _wrong_length(num_seeds: int, num_prompts: str) -> InvalidArgument:
    return InvalidArgument(f"seeds has {num_seeds:,} entries for {num_prompts} prompts: pass one seed per prompt")
