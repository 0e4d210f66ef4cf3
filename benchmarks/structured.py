"""`python -m benchmarks.structured`: structured outputs, by speed and correctness.

- speed: tokens/s with a pattern over tokens/s without, and for llama.cpp, if `make competitors` has installed it;
- matches: completions for 30 regular expressions and 10 JSON Schemas, checked by `re` and `jsonschema`; compile times.
"""

import argparse
import contextlib
import json
import re
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.competitors.systems import VENV, Workload, start_llama, write_model
from benchmarks.fixture_model import NAME, NUM_REQUESTS, UNITS
from benchmarks.load import Load, compare_throughput, run_fixture_load, run_load
from benchmarks.report import Comparison, percentile, print_heading, print_table, spread, write_results
from benchmarks.servers import Servers, fixture_servers

# The language model of llama.cpp is this much slower.
LLAMA_SHARE = 16
MATCH_TOKENS, CHOICES = 160, 100

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

# Each means the same in Python's `re`, which checks the results. All need ASCII alone.
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

# Of the kinds of JSON-Schema-Test-Suite.
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


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.structured", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="number of rounds (default: 5)")
    parser.add_argument(
        "--completions", type=int, default=100_000, help="number of completions to check (default: 100,000)"
    )
    parser.add_argument("--units", type=int, default=UNITS, help=f"width of the LSTM (default: {UNITS})")
    options = parser.parse_args()
    started = time.time()
    print_heading(f"LSTM of {options.units} units, 95 characters", options.rounds)
    with fixture_servers(options.units) as servers:
        _, gateway = servers.start()
        speed = _speed(servers, gateway.port, options.rounds)
        matches = _matches(gateway.port, options.completions)
    write_results("structured-", started, results={"speed": speed, "matches": matches})


def _speed(servers: Servers, port: int, rounds: int) -> list[Comparison]:
    constrained = partial(run_fixture_load, port, structured_outputs={"regex": LOG_LINES})
    comparisons = compare_throughput("Sostenuto", constrained, partial(run_fixture_load, port), rounds, 0.85)
    with _llama(servers) as llama_port:
        if llama_port is not None:

            def run(concurrency: int, **fields: str) -> Load:
                num_requests = max(concurrency, NUM_REQUESTS[concurrency] // LLAMA_SHARE)
                body = {**Workload().llama_body, **fields}
                return run_load(llama_port, body, concurrency=concurrency, num_requests=num_requests, keep_alive=False)

            comparisons += compare_throughput("llama.cpp", partial(run, grammar=LOG_LINES_GBNF), run, rounds)
    print_table(("tokens/s", "with the pattern", "without", "ratio"), [row.row() for row in comparisons])
    return comparisons


@contextlib.contextmanager
def _llama(servers: Servers) -> Iterator[int | None]:
    """Start llama.cpp's server, if it is installed, and yield its port."""
    python = VENV / "bin/python"
    if not python.exists():
        yield None
        return
    with tempfile.TemporaryDirectory() as directory:
        model = write_model(python, Path(directory), "F32", Workload())
        yield start_llama(servers.stack, python, "F32", model, 2, Workload()).port


def _matches(port: int, num_completions: int) -> dict[str, Any]:
    """Generate completions for every pattern, and check each; print compile times."""
    import jsonschema  # noqa: PLC0415 - only this part needs it

    checker = jsonschema.FormatChecker(formats=())
    checker.checks("date", raises=ValueError)(lambda text: bool(date.fromisoformat(text)))
    kinds: list[tuple[dict[str, Any], Any]] = [
        *(({"structured_outputs": {"regex": regex}}, re.compile(regex).fullmatch) for regex in REGEXES),
        *(
            (
                {"response_format": {"type": "json_schema", "json_schema": {"name": "benchmark", "schema": schema}}},
                partial(_is_valid, jsonschema.Draft202012Validator(schema, format_checker=checker)),
            )
            for schema in SCHEMAS
        ),
    ]
    first_s, again_s, texts = list[float](), list[float](), set[str]()
    num_matching = num_checked = 0
    began = time.perf_counter()
    _complete(port, 0, 1, {"guided_regex": "a"})
    print(f"the first pattern, which starts the compiler's process, took {1000 * (time.perf_counter() - began):.0f} ms")
    for fields, is_match in kinds:
        for seconds in (first_s, again_s):
            # A completion of the same request, with a compiled pattern and without.
            began = time.perf_counter()
            _complete(port, 0, 1, fields)
            seconds.append(time.perf_counter() - began)
        for seed in range(-(-num_completions // (len(kinds) * CHOICES))):
            for text in _complete(port, seed, CHOICES, fields):
                num_checked += 1
                num_matching += bool(is_match(text))
                texts.add(text)
    compile_ms = [1000 * max(0.0, first - again) for first, again in zip(first_s, again_s, strict=True)]
    p50, p99 = percentile(compile_ms, 0.5), percentile(compile_ms, 0.99)
    print(f"{num_matching:,} of {num_checked:,} completions match ({len(texts):,} distinct), {len(kinds)} patterns")
    print(f"time to compile, ms: {spread(compile_ms, '.1f')}, p50 {p50:.1f}, p99 {p99:.1f}")
    return {"matching": num_matching, "checked": num_checked, "compile_ms": compile_ms}


def _is_valid(validator: Any, text: str) -> bool:
    try:
        return bool(validator.is_valid(json.loads(text)))
    except ValueError:
        return False


def _complete(port: int, seed: int, choices: int, fields: dict[str, Any]) -> list[str]:
    body = {"model": NAME, "prompt": "", "max_tokens": MATCH_TOKENS, "seed": seed, "n": choices, "timeout_s": 300}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/completions", json.dumps({**body, **fields}).encode())
    with urllib.request.urlopen(request) as response:
        return [choice["text"] for choice in json.load(response)["choices"]]


if __name__ == "__main__":
    main()
