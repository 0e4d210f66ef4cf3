"""Patterns of the structured outputs benchmark: 30 regular expressions, and schemas of JSON-Schema-Test-Suite's kinds.

Each regular expression means the same in Python's `re`, which checks the results. All need ASCII alone.
"""

from typing import Any

# A log line; it may repeat, so that every completion has all its tokens.
LOG_LINE = (
    r"20[0-9]{2}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2} (INFO|WARN|ERROR) [a-z_.]{3,20}: [A-Za-z0-9 _.:/-]{5,80};"
)
LOG_LINES = f"({LOG_LINE})+"
# The same as a grammar of llama.cpp.
LOG_LINES_GBNF = r"""root ::= line+
line ::= "20" d d "-" d d "-" d d " " d d ":" d d ":" d d " " level " " [a-z_.]{3,20} ": " [A-Za-z0-9 _.:/-]{5,80} ";"
level ::= "INFO" | "WARN" | "ERROR"
d ::= [0-9]
"""

REGEXES = (
    LOG_LINE,
    r"[A-Z][a-z]{2,10}",
    r"[A-Z][a-z]+ (van |de )?[A-Z][a-z]+",
    r"[a-z0-9._]{1,20}@[a-z0-9-]{1,15}\.(com|org|net)",
    r"\(\d{3}\) \d{3}-\d{4}",
    r"(25[0-5]|2[0-4]\d|1?\d?\d)(\.(25[0-5]|2[0-4]\d|1?\d?\d)){3}",
    r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}",
    r"#[0-9A-F]{6}",
    r"(19|20)\d\d-(0[1-9]|1[0-2])-(0[1-9]|1\d|2[0-8])",
    r"([01]\d|2[0-3]):[0-5]\d",
    r"\$\d{1,3}(,\d{3})*\.\d\d",
    r"-?\d+(\.\d+)?(e[+-]\d{1,2})?",
    r"M{0,3}(CM|CD|D?C{0,3})(XC|XL|L?X{0,3})(IX|IV|V?I{0,3});",
    r"[BCNOPSF]([BCNOPSF]|=|#|\([BCNOPSF]{1,4}\)|[12]){0,30}",
    r"X:\d+\|K:[A-G](maj|min)\|([A-Ga-g][,']?[1-4]? ?){4,40}",
    r"(SELECT|select) [a-z_]+(, [a-z_]+)* FROM [a-z_]+( WHERE [a-z_]+ = '[^']{1,12}')?;",
    r"def [a-z_]\w*\(([a-z]+(, [a-z]+)*)?\):",
    r"<([a-z]+)( [a-z]+=\"[^\"<>]*\")*/>",
    r"/([a-z0-9_-]+/)*[a-z0-9_-]+\.(py|md|toml)",
    r"https?://[a-z]+(\.[a-z]+){1,3}(/[a-z0-9]*)*(\?[a-z]+=\w+(&[a-z]+=\w+)*)?",
    r"(?i:yes|no|maybe)[.!?]?",
    r"(a|ab|abc|abcd)(d|cd|bcd)+",
    r"(a|b)*a(a|b){6}",
    r"((red|green|blue),){2,8}(red|green|blue)",
    r"[^\W\d_]+('s)?",
    r"\w+( \w+){3,7}[.!?]",
    r".{20,60}",
    r"[^aeiou]+",
    r"(\S+ ?)+",
    r"[A-Z0-9]{1,3}[AEIOU]?[^A-Z]{2}|[!-/]{4,}",
)

SCHEMAS: tuple[Any, ...] = (
    {"type": "integer", "minimum": -120, "maximum": 4321},
    {"type": "number"},
    {"type": "string", "minLength": 2, "maxLength": 30},
    {"type": "string", "pattern": r"^[A-Z]\w*(-\d+)?$"},
    {"enum": ["a", 1, None, True, {"b": [2]}]},
    {"type": "array", "items": {"type": ["integer", "null"]}, "minItems": 1, "maxItems": 6},
    {"type": "array", "prefixItems": [{"type": "string", "format": "date"}, {"const": 7}], "items": False},
    {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 20},
            "age": {"type": "integer", "minimum": 0, "maximum": 120},
            "email": {"type": "string", "format": "email"},
            "tags": {"type": "array", "items": {"enum": ["x", "y", "z"]}, "maxItems": 4},
        },
        "required": ["name", "age"],
        "additionalProperties": False,
    },
    {
        "$defs": {"point": {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]}},
        "type": "object",
        "properties": {
            "from": {"$ref": "#/$defs/point"},
            "to": {"anyOf": [{"$ref": "#/$defs/point"}, {"type": "null"}]},
        },
        "required": ["to"],
    },
    {"type": "object"},
)
