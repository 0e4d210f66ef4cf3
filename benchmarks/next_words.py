"""`python -m benchmarks.next_words`: latency of /v1/next while somebody types, on a running service.

Types a text, one character after another, and requests the next words after each. So all of the prompt but its last
character is in the prefix cache, as with a keyboard. The baseline is a completion of one token of the same prompt, in
alternation. The model should be trained: to an untrained model all next words are about equally likely.
"""

import json
import statistics
import time
from pathlib import Path
from typing import Any

from benchmarks.report import (
    Comparison,
    each_round,
    percentile,
    print_heading,
    print_table,
    rounds_parser,
    spread,
    write_results,
)
from sostenuto import Client

CONTEXT, TYPED = 200, 300  # characters before the first request, and characters typed
NUM_WORDS = 10


def main() -> None:
    parser = rounds_parser("benchmarks.next_words", __doc__)
    parser.add_argument("text", type=Path, help="a text that the model was not trained on")
    parser.add_argument("--model", required=True)
    parser.add_argument("--base-url", help="default: SOSTENUTO_BASE_URL, or http://127.0.0.1:8000")
    options = parser.parse_args()
    text, started = options.text.read_text(encoding="utf-8"), time.time()
    if len(text) < (needed := options.rounds * (CONTEXT + TYPED)):
        parser.error(f"{options.text}: {options.rounds} rounds need {needed:,} characters, and it has {len(text):,}")
    latency, computed, slow_ms = Comparison("p50, ms"), list[int](), list[float]()
    with Client(options.base_url) as client:
        for number in each_round(options.rounds):
            words_ms, tokens_ms = list[float](), list[float]()
            start = number * (CONTEXT + TYPED)
            for end in range(start + CONTEXT, start + CONTEXT + TYPED):
                body = {"model": options.model, "prompt": text[start:end]}
                seconds, response = timed(client, "/v1/next", {**body, "n": NUM_WORDS})
                words_ms.append(seconds * 1000)
                computed.append(response["usage"]["completion_tokens"])
                tokens_ms.append(timed(client, "/v1/completions", {**body, "max_tokens": 1})[0] * 1000)
            latency.add(statistics.median(words_ms), statistics.median(tokens_ms))
            slow_ms.append(percentile(words_ms, 0.95))
    setup = f"the {NUM_WORDS} next words after each of {TYPED} characters; baseline: a completion of one token"
    print_heading(setup, options.rounds)
    print_table(["", "/v1/next", "baseline", "ratio"], [latency.row(".1f")])
    print(f"\np95: {spread(slow_ms, '.1f')} ms")
    print(f"tokens computed: {statistics.median(computed):.0f} (median), {percentile(computed, 0.95)} (p95)")
    write_results("next_words-", started, latency_ms=latency, p95_ms=slow_ms, computed=computed)


def timed(client: Client, path: str, body: dict[str, Any]) -> tuple[float, dict[str, Any]]:
    """Send a request; return the seconds that it took, and its response."""
    began_at = time.perf_counter()
    response = client.post(path, body)
    return time.perf_counter() - began_at, json.loads(response.content)


if __name__ == "__main__":
    main()
