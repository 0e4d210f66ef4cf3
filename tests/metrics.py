"""Events and states that metrics record."""

from service.errors import BackendUnavailable
from service.memory import MemoryBudget
from service.scheduling.call import Call
from service.scheduling.prefix_cache import PrefixCache
from service.scheduling.sequence import ModelVersion
from tests.fakes import make_sequence

DEMO = ModelVersion("demo", 3)


def make_call(num_used=3, model=DEMO, signature="decode"):
    return Call(model, signature, tuple(make_sequence(version=model) for _ in range(num_used)), batch_size=8, size=16)


def happen(metrics, model=DEMO):
    """Record every event once."""
    metrics.compiled(0.01, is_refused=False)
    metrics.sequence_started(make_sequence(version=model), 0.2)
    metrics.call_completed(make_call(model=model), 0.03)
    metrics.call_failed(make_call(model=model), BackendUnavailable("away"), True)
    metrics.cancelled([make_sequence(version=model)])
    metrics.first_token(model, 0.1)
    metrics.token_gap(model, 0.02, 4)
    metrics.finished(model, num_prompt_tokens=5, num_completion_tokens=7, reasons=["stop", "length"])
    metrics.responded(method="GET", route="/v1/models", status=200, error_code=None, seconds=0.01)
    metrics.responded(method="POST", route=None, status=404, error_code="model_not_found", seconds=0.01)


def watch(metrics, **sources):
    """Watch the state of scheduler, memory and backends, or what a test sets instead."""
    defaults = {
        "loads": lambda: {DEMO: (1, 2)},
        "num_tokens": lambda: 30,
        "prefix_cache": PrefixCache(1000),
        "memory": MemoryBudget(10_000_000),
        "backends": lambda: [("10.0.0.1:8500", True, 0.0)],
        "rejections": lambda: {"busy": 0, "batching": 0},
    }
    metrics.watch(**{**defaults, **sources})


def watch_everything(metrics):
    """Let every event happen and watch every state, so that a scrape has all metrics with all labels."""
    watch(metrics)
    happen(metrics)
