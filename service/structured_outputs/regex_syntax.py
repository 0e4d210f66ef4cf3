"""Syntax of regular expressions: the tokens of Rust's regex crate, with the position of each error.

The library that compiles regular expressions has one message for all errors, and does not report which characters are
literal, which depends on flags: in verbose mode `#` begins a comment.
"""

import functools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NoReturn

import outlines_core

Kind = Literal["group", "close", "flags", "or", "repetition", "anchor", "class", "character", "space"]

_ESCAPE = re.compile(
    r"\\(?:[pP](?:\{[^}]*\}|.)|x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|[xuU]\{[^}]*\}|b\{[a-z-]+\}|.)",
    re.DOTALL,
)
_REPETITION = re.compile(r"(?:[*+?]|\{\s*([0-9]+)\s*(?:(,)\s*([0-9]+)?\s*)?\})\??")
_MAX_DIGITS = 10  # of a number of repetitions
_MAX_NESTING = 250  # groups within each other, the limit of Rust's regex crate
# A class may be empty only by these.
_MAY_BE_EMPTY = re.compile(r"&&|--|~~|\^|\\P")
_GROUP = re.compile(r"\?(?:P?<[^>=!]*>|[a-zA-Z-]*[:)])")
_LOOK_AROUND = re.compile(r"\?<?[=!]")
_COMMENT = re.compile(r"#[^\n]*")
# White space for Python alone.
_NOT_SPACE = "\x1c\x1d\x1e\x1f"
_SINGLE: Mapping[str, Kind] = {"^": "anchor", "$": "anchor", ".": "class", "|": "or"}
_SHORTHANDS = {rf"\{letter}" for letter in "dDsSwW"}
_STARTS, _ENDS = {"^", r"\A"}, {"$", r"\z", r"\Z"}
_BOUNDARIES = (r"\b", r"\B", r"\<", r"\>")
_CONTROLS = {"a": "\a", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


class PatternError(Exception):
    """A pattern cannot be compiled; the message has the reason and the position, without naming the field."""

    is_combined = False  # whether it is about all patterns that a text must match, not about a single one


@dataclass(frozen=True)
class Token:
    """A part of a regular expression."""

    kind: Kind  # "flags" set those of the expression or group; "space" is what verbose mode ignores
    text: str
    position: int  # characters before it

    @property
    def character(self) -> str:
        """The character that it stands for, if its kind is that."""
        if self.text[0] != "\\":
            return self.text
        if self.text[1] in "xuU":
            return chr(int(self.text[2:].strip("{}"), 16))
        return _CONTROLS.get(self.text[1], self.text[1])


def tokenize(regex: str) -> list[Token]:
    """Return the tokens of an expression, without outer anchors; raise PatternError if it is not supported."""
    tokens = _without_outer_anchors(_Tokenizer(regex).run())
    for token in tokens:
        if token.kind == "anchor":
            raise PatternError(
                f"must not have anchors or word boundaries inside, got {token.text} at position {token.position}: a "
                "pattern matches the whole text"
            )
    return tokens


def _without_outer_anchors(tokens: Sequence[Token]) -> list[Token]:
    """Return tokens without an anchor at the beginning and at the end, which change nothing for a whole text."""
    significant, outer = [token for token in tokens if token.kind not in ("flags", "space")], []
    if significant and significant[-1].text in _ENDS:
        outer.append(significant.pop())
    if significant and significant[0].text in _STARTS and [token.kind for token in significant[1:2]] != ["repetition"]:
        outer.append(significant[0])
    return [token for token in tokens if token not in outer]


def as_group(tokens: Sequence[Token]) -> str:
    # Otherwise a comment at the end would contain the parenthesis.
    end = "\n" if tokens and tokens[-1].kind == "space" else ""
    return f"(?:{''.join(token.text for token in tokens)}{end})"


@dataclass
class _Item:
    """A character, class or group, with its repetition."""

    length: tuple[float, float]  # minimum and maximum characters of one
    times: tuple[float, float] = (1, 1)  # minimum and maximum number of them
    repetition: int | None = None  # index of the repetition token, if there is one

    @property
    def total(self) -> tuple[float, float]:
        """Minimum and maximum characters of all of them."""
        # 0 × infinity is not a number.
        low, high = (a * b if a and b else 0 for a, b in zip(self.length, self.times, strict=True))
        return low, high


def with_length(tokens: Sequence[Token], low: float, high: float) -> list[Token]:
    """Return tokens that match only the texts with `low` to `high` characters.

    Raises:
        PatternError: there are none, or changing one quantifier is not enough.
    """
    result, limits = list(tokens), f"at least {low} characters" if high == math.inf else f"{low} to {high} characters"
    branches = _branches(tokens, 0)[0]
    nothing = f"{'matches' if len(branches) == 1 else 'has an alternative that matches'} no text of {limits}"
    for branch in branches:
        shortest, longest = _total([branch])
        if low <= shortest and longest <= high:
            continue
        if shortest > high or longest < low:
            raise PatternError(nothing)
        varying = [item for item in branch if item.total[0] < item.total[1]]
        item = varying[0]
        if len(varying) > 1 or item.length[0] < item.length[1] or item.repetition is None:
            raise PatternError(
                f"cannot be limited to {limits}, as more than one of its quantifiers would have to change"
            )
        fixed, length = shortest - item.total[0], item.length[0]
        fewest, most = max(item.times[0], -((fixed - low) // length)), min(item.times[1], (high - fixed) // length)
        if fewest > most:
            raise PatternError(nothing)
        text = f"{{{fewest:.0f},{'' if most == math.inf else f'{most:.0f}'}}}"
        result[item.repetition] = replace(tokens[item.repetition], text=text)
    return result


def _branches(tokens: Sequence[Token], start: int) -> tuple[list[list[_Item]], int]:
    """Return the alternatives of an expression or group that begins at an index, and the index of its end."""
    branches: list[list[_Item]] = [[]]
    index = start
    while index < len(tokens) and tokens[index].kind != "close":
        match tokens[index].kind:
            case "or":
                branches.append([])
            case "character" | "class":
                branches[-1].append(_Item((1, 1)))
            case "group":
                inner, index = _branches(tokens, index + 1)
                branches[-1].append(_Item(_total(inner)))
            case "repetition":
                branches[-1][-1] = _Item(branches[-1][-1].total, _times(tokens[index].text), index)
        index += 1
    return branches, index


def _total(branches: Sequence[Sequence[_Item]]) -> tuple[float, float]:
    """Return the minimum and maximum characters of alternatives."""
    totals = [[item.total for item in branch] for branch in branches]
    return min(sum(low for low, _ in each) for each in totals), max(sum(high for _, high in each) for each in totals)


def _times(repetition: str) -> tuple[float, float]:
    match = _REPETITION.match(repetition)
    assert match is not None, "it is a repetition"
    low, comma, high = match.groups()
    if low is None:
        return {"*": (0, math.inf), "+": (1, math.inf), "?": (0, 1)}[repetition[0]]
    # Floats: a product of integers may exceed them.
    return float(low), float(high) if high else math.inf if comma else float(low)


class _Tokenizer:
    def __init__(self, regex: str) -> None:
        self._regex = regex
        self._tokens: list[Token] = []
        # Positions of open groups, and whether verbose mode was on before each.
        self._open: list[tuple[int, bool]] = []
        self._names: set[str] = set()
        self._is_verbose = False
        self._can_repeat = False

    def run(self) -> list[Token]:
        position = 0
        while position < len(self._regex):
            kind, end = self._read(position)
            text = self._regex[position:end]
            self._tokens.append(Token(kind, text, position))
            if kind != "space":
                self._can_repeat = kind not in ("group", "flags", "or")
            position = end
        if self._open:
            _fail(f"( at position {self._open[-1][0]} is not closed")
        return self._tokens

    def _read(self, position: int) -> tuple[Kind, int]:
        """Return the kind of the token at a position, and where it ends."""
        if (end := self._after_space(position)) > position:
            return "space", end
        character = self._regex[position]
        if character in _SINGLE:
            return _SINGLE[character], position + 1
        if character in ")\\[(*+?{":
            read = {")": self._close, "\\": self._escape, "[": self._class, "(": self._group}
            return read.get(character, self._repetition)(position)
        return "character", position + 1

    def _close(self, position: int) -> tuple[Kind, int]:
        if not self._open:
            _fail(f") at position {position} closes no group")
        self._is_verbose = self._open.pop()[1]
        return "close", position + 1

    def _after_space(self, position: int) -> int:
        """Return where white space or a comment ends that begins at a position, in verbose mode."""
        if not self._is_verbose or position >= len(self._regex):
            return position
        if comment := _COMMENT.match(self._regex, position):
            return comment.end()
        while self._regex[position : position + 1].isspace() and self._regex[position] not in _NOT_SPACE:
            position += 1
        return position

    def _escape(self, position: int) -> tuple[Kind, int]:
        match = _ESCAPE.match(self._regex, position)
        if match is None:
            _fail(f"\\ at position {position} escapes nothing")
        text = match.group()
        if text in _STARTS | _ENDS or text.startswith(_BOUNDARIES):
            return "anchor", match.end()
        if text[1].isdecimal() or text == r"\k":
            raise PatternError(
                f"must not have backreferences, got {text} at position {position}: they are not supported"
            )
        is_class = text[1] in "pP" or text in _SHORTHANDS
        _require_valid(text, f"{'class' if is_class else 'escape'} {text}", position)
        return self._nonempty(text, position) if is_class else "character", match.end()

    def _class(self, start: int) -> tuple[Kind, int]:
        """Return where a character class ends; it may contain classes, brackets and, in verbose mode, comments.

        The library accepts it up to the closing bracket, and not up to one before.
        """
        end = start
        while end := self._regex.find("]", end) + 1:
            text = self._regex[start:end]
            if _is_valid(f"(?x:{text})" if self._is_verbose else text):
                return self._nonempty(text, start), end
        text, bracket, _ = self._regex[start:].partition("]")
        return _fail(
            f"class {text}] at position {start} is invalid" if bracket else f"[ at position {start} is not closed"
        )

    def _nonempty(self, text: str, position: int) -> Kind:
        """Return the kind of a class; refuse one without characters, after which the library has no automaton."""
        if _MAY_BE_EMPTY.search(text) and is_empty(f"(?x:{text})" if self._is_verbose else text):
            raise PatternError(f"must not have a class without characters, got {text} at position {position}")
        return "class"

    def _group(self, position: int) -> tuple[Kind, int]:
        if len(self._open) == _MAX_NESTING:
            _fail(f"groups nest more than {_MAX_NESTING} levels deep at position {position}")
        inside = position + 1
        while (end := self._after_space(inside)) > inside:
            inside = end
        was_verbose = self._is_verbose
        if self._regex[inside : inside + 1] != "?":
            self._open.append((position, was_verbose))
            return "group", position + 1
        if around := _LOOK_AROUND.match(self._regex, inside):
            raise PatternError(
                f"must not have look-around, got ({around.group()} at position {position}: it is not supported"
            )
        start = _GROUP.match(self._regex, inside)
        if start is None:
            _fail(f"group ({self._regex[inside : inside + 2]} at position {position} is invalid")
        text = start.group()
        is_flags = text.endswith(")")
        _require_valid(f"({text}" if is_flags else f"({text}a)", f"group ({text}", position)
        if text.endswith(">"):
            name = text.partition("<")[2]
            if name in self._names:
                _fail(f"group ({text} at position {position} has the name of another")
            self._names.add(name)
        else:
            on, _, off = text[1:-1].partition("-")
            self._is_verbose = (was_verbose or "x" in on) and "x" not in off
        if is_flags:
            return "flags", start.end()
        self._open.append((position, was_verbose))
        return "group", start.end()

    def _repetition(self, position: int) -> tuple[Kind, int]:
        match = _REPETITION.match(self._regex, position)
        if match is None:
            brace = self._regex[position : position + 10].partition("}")
            text = f"{brace[0]}{brace[1]}"
            hint = ": it has no minimum" if re.match(r"\{\s*,", text) else r": a literal { is \{"
            _fail(f"repetition {text} at position {position} is invalid{hint}")
        low, comma, high = match.groups()
        # Python converts at most 4,300 digits, and the library accepts at most ten.
        if max(len(low or ""), len(high or "")) > _MAX_DIGITS:
            _fail(f"repetition at position {position} has a number of more than {_MAX_DIGITS} digits")
        if not self._can_repeat:
            _fail(f"repetition {match.group()} at position {position} has nothing to repeat")
        if comma and high and int(high) < int(low):
            _fail(f"repetition {match.group()} at position {position} has a maximum below its minimum")
        return "repetition", match.end()


def _fail(what: str) -> NoReturn:
    raise PatternError(f"is not a valid regular expression: {what}")


def _require_valid(alone: str, name: str, position: int) -> None:
    """Refuse a token unless the library accepts it alone."""
    if not (alone in _SHORTHANDS or _is_valid(alone)):
        _fail(f"{name} at position {position} is invalid")


@functools.lru_cache(1000)
def is_empty(regex: str) -> bool:
    """Return whether a valid class of characters has none, whether or not case matters."""
    vocabulary = outlines_core.Vocabulary(256, {bytes([byte]): [byte] for byte in range(256)})
    for flags in ("-i", "i"):
        try:
            outlines_core.Index(f"(?{flags}:{regex})", vocabulary)
        except ValueError as error:
            if "incompatible with the regex" in str(error):
                continue
        return False
    return True


@functools.lru_cache(1000)
def _is_valid(regex: str) -> bool:
    vocabulary = outlines_core.Vocabulary(1, {b"\0": [0]})
    try:
        outlines_core.Index(regex, vocabulary)
    except ValueError as error:
        return "error building NFA" not in str(error)
    return True
