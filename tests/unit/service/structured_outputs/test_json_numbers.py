"""Ranges of JSON numbers: what matches is within them for every parser, and what is just inside matches."""

import json
import operator
import re
from decimal import Decimal

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.structured_outputs.json_numbers import integers_within, numbers_within

BOUNDS = st.one_of(
    st.integers(-1200, 1200),
    st.integers(-12_000, 12_000).map(lambda number: number / 100),
    st.floats(-1e14, 1e14),
    st.sampled_from([0.0, 1e-7, 1e-20, 0.30000000000000004, 99.99, 1e15, -1e15, 1e300, 123456789.125]),
)


def regex_of(within, *, ge=None, gt=None, le=None, lt=None):
    bounds = [
        next(((Decimal(repr(value)), is_exclusive) for value, is_exclusive in pair if value is not None), None)
        for pair in (((ge, False), (gt, True)), ((le, False), (lt, True)))
    ]
    return re.compile("|".join(within(*bounds)) or "(?!)")


def neighbors(value):
    """Return a number and those that are one digit above and below it, with up to 15 decimals."""
    exact = Decimal(repr(value))
    for places in range(16):
        for step in (-1, 0, 1):
            yield f"{exact + step * Decimal(1).scaleb(-places):f}"
            yield f"{exact + step * Decimal(1).scaleb(-places):.{places}f}"


@pytest.mark.parametrize("within", [integers_within, numbers_within])
@given(low=BOUNDS, high=BOUNDS, lower=st.sampled_from(["ge", "gt"]), upper=st.sampled_from(["le", "lt"]))
def test_what_matches_is_within_the_range_for_every_parser(within, low, high, lower, upper):
    low, high = sorted((low, high))
    regex = regex_of(within, **{lower: low, upper: high})
    matching = [text for value in (low, high, 0) for text in neighbors(value) if regex.fullmatch(text)]
    for value in [parse(text) for text in matching for parse in (json.loads, orjson.loads)]:
        assert getattr(operator, lower)(value, low)
        assert getattr(operator, upper)(value, high)


@given(low=st.none() | st.integers(-1200, 1200), high=st.none() | st.integers(-1200, 1200))
def test_every_integer_of_the_range_matches(low, high):
    regex = regex_of(integers_within, ge=low, le=high)
    expected = [n for n in range(-1500, 1500) if (low is None or n >= low) and (high is None or n <= high)]
    assert [n for n in range(-1500, 1500) if regex.fullmatch(str(n))] == expected


NUMBERS = [
    ({"ge": 0.5, "le": 9.5}, "0.5 0.50 0.51 1 9 9.5 9.50 9.49999 3.14", "0.4 0.49999 0 9.51 10 9.6 05.0 -1 1. 1e0"),
    ({"gt": 0, "lt": 1}, "0.1 0.00001 0.99999 0.50", "0 0.0 0.000 1 1.0 -0.5 .5"),
    ({"ge": -0.25, "le": 100}, "-0.25 -0.250 -0.2 -0.0 -0 0 99.99 100 100.0", "-0.26 -0.3 -1 100.01 101 1000"),
    ({"lt": -2.5}, "-2.51 -3 -2.500001 -999999999999999", "-2.5 -2.50 -2 0 3 -1000000000000000"),
    ({"gt": 12.75}, "12.76 12.750001 13 99 100 999999999999999.1234567890123", "12.75 12.750 12 1 0.1"),
    ({"ge": 7, "le": 7}, "7 7.0 7.000", "6.9 7.01 6 8 -7"),
    ({"ge": 1.25, "le": 1.375}, "1.25 1.3 1.37 1.375 1.3749", "1.24 1.2 1.376 1.4 1 2"),
    ({"ge": 0}, "0 1.5e99 2.5E-07 999999999999999.5", "-1 1e100 1000000000000000 1e"),
    ({}, "-0 -1.5e+99 0.123456789012345", "1e400 2025e0112408 1234567890123456 0.1234567890123456 00"),
]
INTEGERS = [
    # A bound of more digits allows more, up to 64 bits.
    ({}, "0 -1 999999999999999 -999999999999999", "1000000000000000 -0 01 1.0"),
    ({"ge": 0.5, "lt": 3}, "1 2", "0 3 -1"),
    ({"gt": -1.5, "le": 1.5}, "-1 0 1", "-2 2"),
    ({"le": 2**62}, f"{2**62} -999999999999999", f"{2**62 + 1} -1000000000000000"),
    ({"ge": 10**17}, f"{10**17} {10**18 - 1}", f"{10**17 - 1} {10**18}"),
    ({"ge": 10**19}, f"{10**19} {2**64 - 1}", f"{10**19 - 1} {2**64}"),
    ({"le": -(10**18)}, f"{-(10**18)} {-(2**63)}", f"{1 - 10**18} {-(2**63) - 1}"),
    ({"le": 1e300}, "0 999999999999999", "1000000000000000"),
    ({"gt": 2, "lt": 3}, "", "2 3"),
]


@pytest.mark.parametrize(
    ("within", "bounds", "inside", "outside"),
    [*((numbers_within, *case) for case in NUMBERS), *((integers_within, *case) for case in INTEGERS)],
    # A function's string has its address, which differs between processes of tests.
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_numbers_match_exactly_within_their_range_and_keep_their_digits(within, bounds, inside, outside):
    regex = regex_of(within, **bounds)
    assert [text for text in inside.split() if not regex.fullmatch(text)] == []
    assert [text for text in outside.split() if regex.fullmatch(text)] == []
