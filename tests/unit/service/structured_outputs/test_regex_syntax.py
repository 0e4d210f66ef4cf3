"""Tokens of regular expressions agree with the library that compiles them, and each error has its position."""

import itertools
import math
import random
import re

import outlines_core
import pytest

from service.structured_outputs.regex_syntax import PatternError, as_group, tokenize, with_length

PIECES = [
    *"abab()[]{}|*+?.^-\\# \n:,12x$&<>!=P'\"",
    "(?", "(?x)", "(?:", "(?x:", "(?-x:", "(?i", "[^", "[[:alpha:]]", r"\d", r"\]", r"\[", "{2}", "{1,2}", "&&", "--",
    "~~", r"\x41", r"\x{41}", "(?P<n>", "(?<n>", "[a-c]", "#a\n", "[]", "[^]", r"\pL", r"\b", r"\z", r"\#", r"\ ",
]  # fmt: skip


def tried(function, *args):
    """Return a result, or an error as its message."""
    try:
        return function(*args), ""
    except PatternError as error:
        return None, str(error)


def is_valid(regex):
    """Return whether the library parses an expression, given alone."""
    try:
        outlines_core.Index(regex, outlines_core.Vocabulary(2, {b"a": [0], b"b": [1]}))
    except ValueError as error:
        return "error building NFA" not in str(error)
    return True


@pytest.mark.parametrize("prefix", ["", "(?x)"], ids=["plain", "verbose"])
def test_an_expression_is_valid_if_the_library_parses_it_alone(prefix):
    rng, num_valid = random.Random(0), 0
    for _ in range(3000):
        regex = prefix + "".join(rng.choices(PIECES, k=rng.randint(1, 9)))
        tokens, error = tried(tokenize, regex)
        assert error.startswith("must not have") or is_valid(regex) == (not error), (regex, error)
        if tokens is not None:
            assert is_valid(as_group(tokens)), regex
            num_valid += 1
    assert num_valid > 300


SYNTAX_ERRORS = [
    ("a(b", "( at position 1 is not closed"),
    ("a)(b", ") at position 1 closes no group"),
    ("a)(?:b", ") at position 1 closes no group"),
    ("ab[c", "[ at position 2 is not closed"),
    ("a{,3}b", "repetition {,3} at position 1 is invalid: it has no minimum"),
    ("x{\u0663}", "repetition {\u0663} at position 1 is invalid: a literal { is \\{"),
    ("x{a}", r"repetition {a} at position 1 is invalid: a literal { is \{"),
    ("a{3,2}", "repetition {3,2} at position 1 has a maximum below its minimum"),
    ("a{1," + "9" * 5000 + "}", "repetition at position 1 has a number of more than 10 digits"),
    ("a|*", "repetition * at position 2 has nothing to repeat"),
    (r"^a\e", r"escape \e at position 2 is invalid"),
    ("ab\\", "\\ at position 2 escapes nothing"),
    ("[b-a]c", "class [b-a] at position 0 is invalid"),
    (r"a\p{Klingon}", r"class \p{Klingon} at position 1 is invalid"),
    ("a(?z)", "group (?z) at position 1 is invalid"),
    ("(?<n>a)(?P<n>b)", "group (?P<n> at position 7 has the name of another"),
]


@pytest.mark.parametrize(
    ("regex", "message"),
    [
        *((regex, f"is not a valid regular expression: {message}") for regex, message in SYNTAX_ERRORS),
        ("(" * 251 + "a" + ")" * 251, "is not a valid regular expression: groups nest more than 250 levels deep"),
        (r"d|a[^\s\S]", r"must not have a class without characters, got [^\s\S] at position 3"),
        ("a(?=b)", "must not have look-around, got (?= at position 1"),
        ("(?<!a)b", "must not have look-around, got (?<! at position 0"),
        (r"(a)\1", r"must not have backreferences, got \1 at position 3"),
        ("a^b", "must not have anchors or word boundaries inside, got ^ at position 1"),
        ("a$|b", "must not have anchors or word boundaries inside, got $ at position 1"),
        (r"\babc", "must not have anchors or word boundaries inside, got \\b at position 0"),
        (r"^a\b", r"must not have anchors or word boundaries inside, got \b at position 2"),
        ("^*a", "must not have anchors or word boundaries inside, got ^ at position 0"),
    ],
)
def test_what_cannot_be_compiled_is_named_with_its_position(regex, message):
    """Positions are characters before it, in the expression as it was sent."""
    with pytest.raises(PatternError, match=f"^{re.escape(message)}"):
        tokenize(regex)


@pytest.mark.parametrize("regex", ["^abc$", r"\Aabc\z", r"abc\Z", "(?i)^abc$"])
def test_an_anchor_at_the_beginning_or_end_is_left_out(regex):
    assert "abc" in as_group(tokenize(regex))
    assert not any(token.kind == "anchor" for token in tokenize(regex))


REGEXES = [
    "a*", "[ab]+c", "(?:ab)*", "(?:ab|cc)+b?a?a", "a{2,}b|c+", "a?b?c?", "(a|bc)*", "abc", "b{1,4}?", "(?i)[ab]{2}c*",
]  # fmt: skip


@pytest.mark.parametrize(("low", "high"), [(0, math.inf), (0, 2), (2, 4), (3, 3), (3, math.inf), (5, 6)])
@pytest.mark.parametrize("regex", REGEXES)
def test_a_length_keeps_those_matches_that_have_it(regex, low, high):
    texts = ["".join(each) for length in range(7) for each in itertools.product("abc", repeat=length)]
    expected = [text for text in texts if re.fullmatch(regex, text) and low <= len(text) <= high]
    tokens, error = tried(with_length, tokenize(regex), low, high)
    if tokens is None:
        assert not expected or "more than one of its quantifiers" in error or "an alternative" in error
    else:
        limited = re.compile(as_group(tokens).replace("(?:(?i)", "(?i)(?:"))
        assert [text for text in texts if limited.fullmatch(text)] == expected


def test_a_length_beyond_all_floats_is_no_error_of_the_server():
    regex = "(" * 40 + "a" + "){9999999999}" * 40 + "b*"
    assert with_length(tokenize(regex), 1, math.inf) == tokenize(regex)


def test_a_class_may_be_empty_only_where_case_matters():
    assert [token.text for token in tokenize("(?i)[a&&A]")] == ["(?i)", "[a&&A]"]


def test_a_length_that_one_quantifier_cannot_give_is_an_error():
    with pytest.raises(PatternError, match="be limited to 1 to 5 characters, as more than one of its quantifiers"):
        with_length(tokenize("[a-z]+(-[a-z]+)*"), 1, 5)
    with pytest.raises(PatternError, match="matches no text of 1 to 5 characters"):
        with_length(tokenize("a{6}"), 1, 5)
