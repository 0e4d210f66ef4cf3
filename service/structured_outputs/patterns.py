"""Constraints of a request: patterns that its whole text must match, each as a regular expression.

The syntax is that of Rust's regex crate (https://docs.rs/regex/latest/regex/#syntax), without anchors, word boundaries
and look-around.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from service.structured_outputs.json_schema import ANY_OBJECT, schema_regex

Kind = Literal["regex", "choice", "json", "json_object", "allowed_characters", "banned_characters", "min_length"]


@dataclass(frozen=True)
class Pattern:
    """A constraint on the whole text, as its kind and source."""

    kind: Kind
    # The regular expression; the choices or the JSON Schema as JSON; "" for "json_object"; the characters; the number.
    source: str

    @classmethod
    def choice(cls, choices: Sequence[str]) -> "Pattern":
        return cls("choice", orjson.dumps(list(choices)).decode())

    @classmethod
    def json(cls, schema: Any) -> "Pattern":
        """Return the pattern of the JSON texts that a schema describes.

        Raises:
            TypeError: it has values that orjson cannot write, such as integers of more than 64 bits.
            ValueError: it has an infinite number, which 1e400 becomes when parsed.
        """
        source = orjson.dumps(schema).decode()
        # For an infinite number orjson writes null.
        json.dumps(schema, allow_nan=False)
        return cls("json", source)

    def to_regex(self) -> str:
        """Return the pattern as a regular expression; raise SchemaError for a JSON Schema that has none."""
        source = self.source
        regexes: Mapping[Kind, Callable[[], str]] = {
            "regex": lambda: source,
            "choice": lambda: "|".join(map(_literal, orjson.loads(source))),
            "json": lambda: schema_regex(orjson.loads(source)),
            "json_object": lambda: ANY_OBJECT,
            "allowed_characters": lambda: f"[{_literal(source)}]*",
            "banned_characters": lambda: f"[^{_literal(source)}]*",
            "min_length": lambda: f"(?s:.){{{source},}}",
        }
        return regexes[self.kind]()


# Patterns that a text must match, each of them; at least one.
Constraint = tuple[Pattern, ...]


def _literal(text: str) -> str:
    """Escape a text; line feeds and the like would be dropped from a pattern with the flag x."""
    return "".join(f"\\x{{{ord(character):x}}}" if not character.isalnum() else character for character in text)
