"""One client's requests must not stall the streams of others: many choices, and prompts made for the prefix cache."""

import threading
import time

import numpy as np
import pytest

from tests.attack.streams import Stream
from tests.waiting import until

LONG = {"model": "lstm", "prompt": "It was ", "max_tokens": 100_000, "temperature": 1, "ignore_eos": True}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("wide", [{"n": 128, "max_tokens": 1}, {"n": 128, "max_tokens": 2_000, "ignore_eos": True}])
def test_a_request_of_128_choices_blocks_no_other_request(start_gateway, wide):
    gateway = start_gateway(max_request_tokens=10_000_000)
    stream = Stream(gateway, **LONG)
    until(lambda: stream.runs)
    answers = []
    request = {"model": "lstm", "prompt": "Größe ", **wide}
    attacker = threading.Thread(target=lambda: answers.append(gateway.post(request, timeout=500)))
    attacker.start()
    small = []
    for seed in range(5):
        start = time.monotonic()
        status, _ = gateway.post({"model": "lstm", "prompt": "It ", "max_tokens": 8, "seed": seed})
        small.append(time.monotonic() - start)
        assert status == 200
    assert stream.runs, "choose a longer stream"
    print(f"small requests: {', '.join(f'{seconds:.3f}' for seconds in small)} s")
    stream.closed.set()
    attacker.join()
    assert answers[0][0] == 200
    assert len(answers[0][1]["choices"]) == 128


@pytest.mark.timeout(900)
def test_prompts_that_share_a_cached_prefix_do_not_stall_streams(start_gateway):
    gateway = start_gateway(max_request_tokens=10_000_000, prefix_cache_bytes=2**27)
    tokens = np.random.default_rng(0).integers(3, 30, 12_000).tolist()
    for first in range(1, 12_001, 50):
        prompts = [tokens[:length] for length in range(first, first + 50)]
        status, answer = gateway.post({"model": "lstm", "prompt": prompts, "max_tokens": 1}, timeout=300)
        assert status == 200, answer
    stream = Stream(gateway, **{**LONG, "max_tokens": 1_000_000})
    until(lambda: len(stream.times) > 200)
    before = np.diff(stream.times[100:])
    start = time.monotonic()
    prompts = [[*tokens[: 11_000 + 10 * number], 3, *tokens[11_001 + 10 * number :]] for number in range(64)]
    for prompt in prompts:
        assert gateway.post({"model": "lstm", "prompt": prompt, "max_tokens": 1}, timeout=300)[0] == 200
    during = stream.gaps_since(start)
    stream.closed.set()
    p99 = [float(np.quantile(gaps, 0.99)) for gaps in (before, during)]
    print(f"gap between events, p99: {p99[0]:.3f} s before, {p99[1]:.3f} s during, longest {during.max():.3f} s")
    # 1.4 s when each cached length was hashed for each prompt.
    assert p99[1] < 0.5
