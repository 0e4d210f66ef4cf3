"""Measurements in a process of their own: baselines share no interpreter and no TensorFlow with each other.

Each request is one line of JSON, the arguments of the measurement; each response is one line of JSON, tokens per
second or an object.
"""

import contextlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.servers import child


def start_measurement(stack: contextlib.ExitStack, *arguments: str, python: Path | None = None) -> Callable[..., Any]:
    """Start a module that runs `serve_measurements`; return a function that requests a measurement."""
    process = stack.enter_context(child(*arguments, python=python))

    def request(**arguments: Any) -> Any:
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # reported below
            process.stdin.write(json.dumps(arguments) + "\n")
            process.stdin.flush()
        result = process.stdout.readline()
        if not result:
            raise SystemExit(f"error: the baseline {process.args!r} exited with code {process.wait()}")
        return json.loads(result)

    return request


def serve_measurements(measure: Callable[..., Any]) -> None:
    """Measure once per line of standard input, until it ends."""
    for line in sys.stdin:
        print(json.dumps(measure(**json.loads(line))), flush=True)


def repeat_for(seconds: float, step: Callable[[], int]) -> float:
    """Run a step repeatedly for a time, after one warm-up step; return tokens per second."""
    step()
    started, tokens = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        tokens += step()
    return tokens / (time.perf_counter() - started)
