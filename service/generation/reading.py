"""A prefill-only request: nothing is sampled, and each prompt is one sequence.

Knows the fields of a sequence without decode. Does not know what the request returns.
"""

from typing import Any

import numpy as np

from service.backends.registry import ServedModel
from service.generation.checkpoint import Checkpoint
from service.generation.job import Canceller, Job, RequestObserver
from service.generation.prompts import EncodedPrompt
from service.scheduling.sequence import SamplingParams


class Reading(Job):
    """A running prefill-only request."""

    def __init__(
        self,
        model: ServedModel,
        prompts: list[EncodedPrompt],
        runner: Canceller,
        listener: RequestObserver,
        timeout_s: float,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        """Start the clock.

        Args:
            model: The version that computes it.
            prompts: The encoded prompts.
            runner: Cancels its sequences.
            listener: Receives the outcome.
            timeout_s: See `Job`.
            checkpoint: The checkpoint whose state precedes each prompt; None: none.
        """
        super().__init__(model.ref, sum(prompt.num_tokens for prompt in prompts), runner, listener, timeout_s)
        self.model, self.prompts = model, prompts
        self.options: dict[str, Any] = {"max_tokens": 0, "sampling": SamplingParams(), "seed": 0}
        self._checkpoint = checkpoint

    def choices(self, prompt_index: int) -> range:
        """Return the indexes of the sequences that a prompt needs: its own."""
        return range(prompt_index, prompt_index + 1)

    @property
    def fingerprint(self) -> str:
        """The `system_fingerprint` of the values."""
        return self.model.fingerprint_if(self.is_reproducible)

    def stream_of(self, index: int) -> int:
        """Return the index of a sequence's random stream, which stays unused."""
        return index

    @property
    def beginning(self) -> np.ndarray:
        """The state before the prompts, float32 (S,)."""
        return self._checkpoint.point.state if self._checkpoint else np.zeros(self.model.card.state_size, np.float32)

    @property
    def origin(self) -> bytes:
        """Identifies that state in the prefix cache."""
        return self._checkpoint.origin if self._checkpoint else b""
