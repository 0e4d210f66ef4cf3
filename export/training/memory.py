"""Checks whether a training run fits into memory. Otherwise the kernel would kill it without a message."""

from pathlib import Path

from export.config import TrainConfig
from export.errors import TrainingFailed
from export.training.model import count_parameters

_MEMINFO = Path("/proc/meminfo")
# The memory limit of a container: cgroups v2, and v1.
_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
# Copies of the weights: the weights, their gradients, the optimizer's two moments, those of a sample and of an export.
# Measured: 8 to 11 with 2,048 and 4,096 units.
_COPIES = 8
# float32 values saved per token, unit and layer for the backward pass: measured 5 (simple_rnn), 15 (lstm and gru).
_KEPT_PER_UNIT = 5


def require_memory(config: TrainConfig, vocab_size: int, window_tokens: int) -> None:
    """Check a lower bound of the memory that a training run needs; a training run that passes may still be too large.

    `window_tokens` are those of one update, over the whole batch.

    Raises:
        TrainingFailed: the training needs more memory than is free.
    """
    num_parameters, ways = count_parameters(config, vocab_size), 2 if config.bidirectional else 1
    # A bidirectional model has logits only for the token after a window.
    logits = vocab_size / (config.window_length or 1)
    per_token = logits + _KEPT_PER_UNIT * config.layers * config.units * ways
    needed, free = 4 * (_COPIES * num_parameters + window_tokens * per_token), free_bytes()
    if needed > free:
        raise TrainingFailed(
            f"{num_parameters:,} parameters (layers = {config.layers}, units = {config.units}, embedding = "
            f"{config.embedding}, vocabulary {vocab_size:,}) and {window_tokens:,} tokens at once (batch_size = "
            f"{config.batch_size}, sequence_length = {config.sequence_length}) need at least {needed / 2**30:.1f} "
            f"GiB of memory, but only {free / 2**30:.1f} GiB is free"
        )


def free_bytes() -> float:
    """Return the available memory, or the container's limit if that is less; infinity if neither is known."""
    limits = [path.read_text().strip() for path in _LIMITS if path.exists()]
    meminfo = _MEMINFO.read_text().splitlines() if _MEMINFO.exists() else []
    available = [int(line.split()[1]) * 1024 for line in meminfo if line.startswith("MemAvailable:")]
    return min([float("inf"), *available, *(int(limit) for limit in limits if limit.isdigit())])
