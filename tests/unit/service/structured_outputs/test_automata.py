"""Automata accept exactly the texts that Python's `re` accepts, for every kind of token and both directions."""

import itertools
import re

import numpy as np
import pytest

from contract.signatures import FINAL_ROW, FORBIDDEN, ROW_BITS
from contract.tokenizers import SubwordTokenizer, WordTokenizer
from service.scheduling.sampling_inputs import FIRST_ROW, Match
from service.structured_outputs.automata import CompilationLimits, TokenTexts, compile_automaton, compile_bytes
from service.structured_outputs.regex_syntax import PatternError

LIMITS = CompilationLimits(max_states=20_000, max_bytes=2**25)
CHARACTERS = ("", "", "", "a", "b", "c", "é", "-")
END = 2
PATTERNS = [
    "a", "abc", "a|ab|abc", "(a|ab)(c|bcb)", "a*", "a+b?c{2,3}", "[ab]*c", "[^a]+", ".*b.", "(?:ab|ba)+", "a??b*?c+?",
    r"(?s)a.b", "[]a]+", "[^]a]+", r"[\]a-c-]{2}", r"\\|\[|a\[?b",
    "(?s:.{2,3})b?", "(?i:A[^B])c*", "(?x) a  b* # | c", "a(?x: b | # )\n c)-?", "^a+b?$",
    "é+a", "[a-cé]{3}", "(a(b(c)?)?)?-", "(?i)ABC|-", r"\w+", r"\W|a", "(a|b)*a(a|b){3}",
]  # fmt: skip


def texts(tokens=CHARACTERS, *, end=END, backward=False, following=None):
    """Return the texts of tokens, with two more ids in the output layer."""
    first, rest = (tuple(token.encode() for token in each) for each in (tokens, following or tokens))
    return TokenTexts(first, rest, end, len(tokens) + 2, backward)


def compiled(*regexes, limits=LIMITS, **options):
    return compile_automaton(regexes, texts(**options), limits)


def accepts(automaton, token_ids, end=END):
    """Return whether the tokens are allowed one after another, and then the end."""
    row = FIRST_ROW
    for token_id in token_ids:
        if row == FINAL_ROW or automaton.table[row, token_id] == FORBIDDEN:
            return False
        row = automaton.step(row, token_id)
    return row == FINAL_ROW or automaton.table[row, end] != FORBIDDEN


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_texts_of_an_automaton_are_those_that_re_matches(pattern, backward):
    automaton = compiled(pattern, backward=backward)
    for length in range(1, 6):
        for ids in itertools.product(range(3, len(CHARACTERS)), repeat=length):
            text = "".join(CHARACTERS[i] for i in ids)
            expected = re.fullmatch(pattern, text) is not None
            assert accepts(automaton, ids[::-1] if backward else ids) == expected, text


@pytest.mark.parametrize("pattern", PATTERNS)
def test_distances_and_continuations_agree(pattern):
    automaton = compiled(pattern)
    entries, is_match = automaton.table[FIRST_ROW:, :-2], automaton.table[:, END] != FORBIDDEN
    is_match[FINAL_ROW] = True
    rows, is_allowed = entries & 0xFFFF, entries != FORBIDDEN
    is_allowed[:, END] = False
    distances = np.where(is_match, 0, automaton.continuations)
    assert np.array_equal(distances[rows[is_allowed]], entries[is_allowed] >> ROW_BITS)
    for number, (row, allowed) in enumerate(zip(rows, is_allowed, strict=True), FIRST_ROW):
        assert automaton.continuations[number] == distances[row[allowed]].min() + 1


@pytest.mark.parametrize(
    ("pattern", "same"),
    [
        ("[[:alpha:]é]+", "[a-cé]+"),
        (r"[a-c&&[^b]]+", "[ac]+"),
        ("(?x) a  # the first\n [ b c ]", "a[bc]"),
        (r"\p{L}{2}", "[a-cé]{2}"),
        (r"\P{L}", "-"),
        (r"\PL", "-"),
        (r"[\P{L}b]+", "[-b]+"),
    ],
)
def test_the_syntax_of_rust_that_python_lacks(pattern, same):
    assert compiled(pattern).digest == compiled(same).digest


@pytest.mark.parametrize(
    ("pattern", "same"),
    [
        ("(?s).{20,60}", r"[\s\S]{20,60}"),
        ("(?s:.{21,60})", r"[\s\S]{21,60}"),
        ("(?x).{20,60}", ".{20,60}"),
        ("(?x) . {20,60} # any", ".{20,60}"),
        ("(?-s:.{21,60})", ".{21,60}"),
        (r"(?i)\S{20,60}", r"\S{20,60}"),
        (r"\PL{1,3}", r"\P{L}{1,3}"),
    ],
)
def test_flags_cost_nothing(pattern, same):
    """The automaton over bytes is that of the same expression without them; some took minutes."""
    automaton, expected = compile_bytes(pattern), compile_bytes(same)
    assert np.array_equal(automaton.next, expected.next)
    assert np.array_equal(automaton.accepts, expected.accepts)


def test_all_regexes_must_match():
    automaton = compiled("(?s:.){3,}", "[ac]*", "(c*ac*a)*c*")
    for length in range(1, 6):
        for ids in itertools.product((3, 4, 5), repeat=length):
            text = "".join(CHARACTERS[i] for i in ids)
            assert accepts(automaton, ids) == (length >= 3 and "b" not in text and text.count("a") % 2 == 0)


def test_tokens_of_several_characters_and_of_parts_of_characters_are_walked_by_their_bytes():
    """A byte-level tokenizer spells é in two tokens, and has tokens of more than one character."""
    tokenizer = SubwordTokenizer.train(["abcabcabc éa"] * 50, vocab_size=270)
    first, rest = (tokenizer.token_bytes(first=first) for first in (True, False))
    automaton = compile_automaton(["(abc)+é?"], TokenTexts(first, rest, None, len(first)), LIMITS)
    assert len(tokenizer.encode("abcabc")) < 6
    for text, is_prefix in (("abcabc", True), ("abcé", True), ("abca", True), ("abé", False), ("abcéa", False)):
        row, is_allowed = FIRST_ROW, True
        for token_id in tokenizer.encode(text):
            is_allowed = is_allowed and row != FINAL_ROW and automaton.table[row, token_id] != FORBIDDEN
            row = automaton.step(row, token_id) if is_allowed else row
        assert is_allowed == is_prefix, text


def test_words_are_separated_but_not_from_what_precedes_the_text():
    """The pattern has no space before the first word, wherever the text begins."""
    tokenizer = WordTokenizer.train(["the cat sat"])
    words = {word: i for i, word in enumerate(tokenizer.tokens)}
    first, following = (tokenizer.token_bytes(first=first) for first in (True, False))
    automaton = compile_automaton(["(the|cat)( sat)+"], TokenTexts(first, following, None, len(first)), LIMITS)
    row = automaton.step(FIRST_ROW, words["cat"])
    assert automaton.table[FIRST_ROW, words["sat"]] == FORBIDDEN
    assert automaton.table[row, words["sat"]] != FORBIDDEN
    assert automaton.table[row, words["cat"]] == FORBIDDEN


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (r"(?-u:\xff)", "it nests too deeply, has too large a number, or matches invalid UTF-8"),
        ("(" * 250 + "a" + ")" * 250, "is not a valid regular expression: it nests too deeply"),
        ("[a&&b]", "must not have a class without characters, got [a&&b] at position 0"),
        ("a[b&&c]", "must not have a class without characters, got [b&&c] at position 1"),
        ("a{0}", "matches the empty text only"),
        ("xay", "needs characters that the model's vocabulary lacks, such as 'x', 'y'"),
        ("(a|b)*a(a|b){15}", "must have at most 20000 states, got more"),
    ],
)
def test_a_pattern_that_cannot_be_compiled_is_an_error_that_says_why(pattern, message):
    with pytest.raises(PatternError, match=re.escape(message)):
        compiled(pattern)


def test_missing_characters_are_named_in_reading_order():
    with pytest.raises(PatternError, match="vocabulary lacks, such as 'x', 'y'"):
        compiled("xay", backward=True)


def test_the_bytes_of_a_table_are_limited():
    with pytest.raises(PatternError, match="must need at most 1000 bytes for its states × 10 tokens, got 1040 or more"):
        compiled("a{1,40}", limits=CompilationLimits(20_000, 1000))


def test_an_automaton_is_the_same_in_every_process():
    assert compiled("(a|bc)*é").digest == compiled("(a|bc)*é").digest == "bca3594eb8251afa"
    assert compiled("(a|bc)*é").digest != compiled("(a|bc)+é").digest


def test_the_rows_that_a_call_needs_are_those_that_its_steps_read():
    automaton = compiled("abcabcabc")
    for steps in range(1, 7):
        assert automaton.reachable([FIRST_ROW], steps).tolist() == list(range(FIRST_ROW + steps))


def test_a_match_ends_where_no_token_can_follow():
    match = Match(compiled("ab|ac?-"))
    assert match.num_missing == 2
    assert match.copy().advance([3, 5, 7, 3]) == 3
    assert match.copy().advance([3, 5]) == 2
    assert match.advance([3]) == 1
    assert not match.has_ended
    assert match.advance([7, 7]) == 1
    assert match.has_ended
    assert not match.is_extensible


@pytest.mark.parametrize(("num_left", "length"), [(1, 1), (2, 1), (3, 1), (4, 4), (6, 4), (7, 5)])
def test_a_match_ends_where_too_few_tokens_are_left_for_a_longer_one(num_left, length):
    match = Match(compiled("(abc)*a"), num_left=num_left)
    assert match.advance([3, 4, 5, 3, 4]) == length
    assert match.has_ended == (length < 5)
    assert match.is_extensible
    cut = Match(compiled("(abc)*a"))
    assert cut.advance([3, 4, 5, 3, 4]) == 5
