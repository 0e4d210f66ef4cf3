"""A body is checked once, and whatever is wrong is named with its bound and its value."""

import json

import pytest

from service.errors import InvalidRequest
from service.schema import parse_completion
from service.sequence import Sampling


def parse(**fields):
    """Parse a body with a model and the given fields."""
    return parse_completion(json.dumps({"model": "m", **fields}).encode(), max_tokens=1000)


def test_defaults_are_openais():
    """What is not given has OpenAI's default, and a seed is drawn."""
    request = parse()
    assert (request.prompt, request.max_tokens, request.num_choices, request.stream) == ("", 16, 1, False)
    assert request.sampling == Sampling(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0)
    assert request.stops == ()
    assert 0 <= request.seed < 2**53


def test_drawn_seeds_differ():
    """Two requests without a seed get two texts."""
    assert parse().seed != parse().seed


def test_every_field_arrives():
    """Given values are taken as they are."""
    request = parse(
        prompt="x",
        max_tokens=5,
        temperature=0,
        top_p=0.5,
        top_k=7,
        min_p=0.1,
        seed=-3,
        stop=["a", "b"],
        n=2,
        stream=True,
    )
    assert request.sampling == Sampling(temperature=0.0, top_k=7, top_p=0.5, min_p=0.1)
    assert (request.seed, request.stops, request.num_choices, request.stream) == (-3, ("a", "b"), 2, True)


@pytest.mark.parametrize(
    "field", ["prompt", "max_tokens", "temperature", "top_p", "top_k", "min_p", "stop", "n", "stream"]
)
def test_null_means_absent(field):
    """Null gives the default, as OpenAI's clients expect."""
    given, absent = parse(seed=1, **{field: None}), parse(seed=1)
    assert given == absent


@pytest.mark.parametrize(("value", "expected"), [("a", ("a",)), (["a"], ("a",)), ([], ())])
def test_stop_is_a_string_or_a_list(value, expected):
    """One stop string need not be in a list."""
    assert parse(stop=value).stops == expected


@pytest.mark.parametrize("value", [0, -1])
def test_top_k_has_two_ways_to_be_off(value):
    """0 and -1 both mean all tokens."""
    assert parse(top_k=value).sampling.top_k == 0


def test_unknown_fields_are_ignored():
    """Clients send more than we know."""
    assert parse(user="u", best_of_breed=1).prompt == ""


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("max_tokens", -1, "max_tokens must be greater than or equal to 0, got -1"),
        ("max_tokens", 1001, "max_tokens must be at most 1000, got 1001"),
        ("max_tokens", 10**30, "max_tokens must be at most 1000, got 1000000"),
        ("max_tokens", 2.5, "max_tokens must .*integer.*, got 2.5"),
        ("max_tokens", "5", "max_tokens must .*integer, got '5'"),
        ("max_tokens", True, "max_tokens must .*integer, got True"),
        ("temperature", -0.1, "temperature must be greater than or equal to 0, got -0.1"),
        ("temperature", 2.1, "temperature must be less than or equal to 2, got 2.1"),
        ("temperature", "hot", "temperature must .*number, got 'hot'"),
        ("top_p", 1.5, "top_p must be less than or equal to 1, got 1.5"),
        ("min_p", -1, "min_p must be greater than or equal to 0, got -1"),
        ("top_k", -2, "top_k must be greater than or equal to -1, got -2"),
        ("top_k", 2**31, "top_k must be less than or equal to 2147483647"),
        ("seed", 2**63, "seed must be less than 9223372036854775808"),
        ("seed", 0.5, "seed must .*integer"),
        ("n", 0, "n must be greater than or equal to 1, got 0"),
        ("n", 129, "n must be less than or equal to 128, got 129"),
        ("prompt", 5, "prompt must .*string, got 5"),
        ("prompt", ["a"], r"prompt must .*string, got \['a'\]"),
        ("stop", "", r"stop\[0\] must have at least 1 character, got ''"),
        ("stop", ["a", 5], r"stop\[1\] must .*string, got 5"),
        ("stop", ["x"] * 17, "stop must have at most 16 items"),
        ("stop", 5, "stop must be a valid array, got 5"),
        ("stream", "yes", "stream must .*boolean, got 'yes'"),
        ("stream_options", {"include_usage": 3}, "stream_options.include_usage must .*boolean, got 3"),
        ("model", None, "model must .*string, got None"),
    ],
)
def test_a_wrong_field_is_named_with_its_bound_and_its_value(field, value, message):
    """The message says which field, what is allowed and what came; `param` repeats the field for programs."""
    with pytest.raises(InvalidRequest, match=message) as caught:
        parse(**{field: value})
    assert caught.value.param == field


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("field", ["temperature", "top_p", "min_p"])
def test_numbers_that_are_not_finite_are_refused(field, number):
    """NaN and infinities, which some JSON writers produce, are errors of the field."""
    with pytest.raises(InvalidRequest, match=f"{field} must be a finite number"):
        parse_completion(f'{{"model": "m", "{field}": {number}}}'.encode(), max_tokens=10)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "must be JSON"),
        (b"{", "must be JSON"),
        (b"hello", "must be JSON"),
        (b"\xff\xfe", "must be JSON"),
        (b'{"prompt": "\\ud800"}', "must be JSON"),
        (b"[1]", r"must be a JSON object, got \[1\]"),
        (b"null", "must be a JSON object, got None"),
        (b"{}", "model is required"),
    ],
)
def test_a_body_that_is_no_request_says_why(body, message):
    """Whatever is not a JSON object with a model is refused in one line."""
    with pytest.raises(InvalidRequest, match=message):
        parse_completion(body, max_tokens=10)


def test_a_long_value_is_shortened_in_the_message():
    """An error never repeats a megabyte."""
    with pytest.raises(InvalidRequest) as caught:
        parse(n="x" * 1_000_000)
    assert len(str(caught.value)) < 200
