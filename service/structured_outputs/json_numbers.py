"""Ranges of JSON numbers as regular expressions. Pure: numbers and text alone.

All are finite doubles: the largest is below 1e115. Within bounds a number has no exponent.
"""

import math
from collections.abc import Sequence
from decimal import Decimal

# Decimal digits that a double preserves; integers of this length are exact in any parser.
MAX_DIGITS = 15
_NATURAL = f"(?:0|[1-9][0-9]{{0,{MAX_DIGITS - 1}}})"
_FRACTION = rf"(?:\.[0-9]{{1,{MAX_DIGITS}}})?(?:[eE][+-]?[0-9]{{1,2}})?"
ANY_NUMBER = f"-?{_NATURAL}{_FRACTION}"
_LIMIT = Decimal(10) ** MAX_DIGITS
# Integer bounds beyond these are ignored.
_SMALLEST, _LARGEST = -(2**63), 2**64 - 1

# A number, and whether it is excluded.
Bound = tuple[Decimal, bool]
_ZERO: Bound = (Decimal(0), False)
# A bound's digits after the point, without trailing zeros, and whether it is excluded.
_Digits = tuple[str, bool]
_NO_DIGITS: _Digits = ("", False)


def integers_within(low: Bound | None, high: Bound | None) -> list[str]:
    """Return alternatives for the integers of a range; on a side without a bound they have at most 15 digits."""
    first = None if low is None else math.floor(low[0]) + 1 if low[1] else math.ceil(low[0])
    last = None if high is None else math.ceil(high[0]) - 1 if high[1] else math.floor(high[0])
    if (first is not None and first > _LARGEST) or (last is not None and last < _SMALLEST):
        return []
    first = None if first is not None and first < _SMALLEST else first
    last = None if last is not None and last > _LARGEST else last
    negative = [] if first is not None and first >= 0 else _naturals(max(1, -(last or 0)), first and -first, -_SMALLEST)
    positive = [] if last is not None and last < 0 else _naturals(max(0, first or 0), last)
    return [*(f"-{part}" for part in negative), *positive]


def numbers_within(low: Bound | None, high: Bound | None) -> list[str]:
    """Return alternatives for the numbers of a range; without exponents if there is a bound other than a minimum of 0.

    They have no more digits than distinguish two doubles: one just above an excluded minimum would be equal to it.
    """
    if high is None and low in (None, _ZERO):
        return [f"{_NATURAL}{_FRACTION}" if low else ANY_NUMBER]
    if (low and low[0] >= _LIMIT) or (high and high[0] <= -_LIMIT):
        return []
    low, high = low if low and low[0] >= -_LIMIT else None, high if high and high[0] <= _LIMIT else None
    num_digits = [len(str(abs(int(bound[0])))) for bound in (low, high) if bound]
    decimals = max(0, MAX_DIGITS - max(num_digits, default=1))
    numbers: list[str] = []
    if low is None or low[0] < 0:
        smallest = _ZERO if high is None or high[0] > 0 else (-high[0], high[1])
        numbers += [f"-{part}" for part in _magnitudes(smallest, low and (-low[0], low[1]), decimals)]
    if high is None or high[0] >= 0:
        numbers += _magnitudes(max(low or _ZERO, _ZERO), high, decimals)
    return numbers


def _magnitudes(low: Bound, high: Bound | None, decimals: int) -> list[str]:
    """Return alternatives for the numbers from `low`, at least 0, to `high`, without an exponent."""
    first, last = int(low[0]), None if high is None else int(high[0])
    low_digits, high_digits = _digits(low), None if high is None else _digits(high)
    if first == last:
        parts = [(str(first), _decimals(low_digits, high_digits, decimals))]
    else:
        free = _decimals(_NO_DIGITS, None, decimals)
        between = _naturals(first + 1, None if last is None else last - 1)
        parts = [(str(first), _decimals(low_digits, None, decimals)), *((part, free) for part in between)]
        parts += [] if last is None else [(str(last), _decimals(_NO_DIGITS, high_digits, decimals))]
    return [whole + _optional(digits and rf"\.{digits}", ends) for whole, (ends, digits) in parts if ends or digits]


def _digits(bound: Bound) -> _Digits:
    return f"{bound[0]:f}".partition(".")[2].rstrip("0"), bound[1]


def _optional(digits: str, may_be_absent: bool) -> str:
    return f"(?:{digits})?" if digits and may_be_absent else digits


def _decimals(low: _Digits, high: _Digits | None, room: int) -> tuple[bool, str]:
    """Return whether a number may end here, and up to `room` more digits that may follow; "" if none may."""
    may_end = low == _NO_DIGITS and high != ("", True)
    if room == 0 or high == ("", True):
        return may_end, ""
    if low == _NO_DIGITS and high is None:
        return True, f"[0-9]{{1,{room}}}"
    first, last = int(low[0][:1] or 0), 9 if high is None else int(high[0][:1] or 0)
    # Digits after which a bound still decides, and those between.
    edges = ({first} if low != _NO_DIGITS else set()) | ({last} if high is not None else set())
    free = [digit for digit in range(first, last + 1) if digit not in edges]
    parts = [f"[{free[0]}-{free[-1]}][0-9]{{0,{room - 1}}}"] if free else []
    for digit in sorted(edges) if first <= last else ():
        low_rest = (low[0][1:], low[1]) if digit == first else _NO_DIGITS
        high_rest = (high[0][1:], high[1]) if high is not None and digit == last else None
        ends, digits = _decimals(low_rest, high_rest, room - 1)
        if ends or digits:
            parts.append(f"{digit}{_optional(digits, ends)}")
    return may_end, one_of(parts) if parts else ""


def one_of(alternatives: Sequence[str]) -> str:
    """Return a regular expression that matches what any of the alternatives does."""
    return alternatives[0] if len(alternatives) == 1 else f"(?:{'|'.join(alternatives)})"


def _naturals(low: int, high: int | None, largest: int = _LARGEST) -> list[str]:
    """Return alternatives for the integers from `low`, at least 0, to `high`; None: as long as `low`, to `largest`."""
    if high is not None:
        return _blocks(low, high)
    if not low:
        return [_NATURAL]
    size = len(str(low))
    longer = [f"[1-9][0-9]{{{size},{MAX_DIGITS - 1}}}"] if size < MAX_DIGITS else []
    return [*_blocks(low, min(10**size - 1, largest)), *longer]


def _blocks(low: int, high: int) -> list[str]:
    """Return alternatives for the whole numbers of a range: blocks that differ in their last digits only."""
    parts: list[str] = []
    while low <= high:
        size = 1
        while low and low % (size * 10) == 0 and low + size * 10 - 1 <= high:
            size *= 10
        digit = low // size % 10
        last_digit = digit + min(9 - digit, (high + 1 - low) // size - 1)
        head = str(low // (size * 10)) if low >= size * 10 else ""
        parts.append(f"{head}[{digit}-{last_digit}]{'[0-9]' * (len(str(size)) - 1)}")
        low += (last_digit - digit + 1) * size
    return parts
