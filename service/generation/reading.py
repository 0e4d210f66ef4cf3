"""A request whose texts are only read: nothing is drawn, and each text is one sequence.

Knows what a sequence that draws nothing is made of. Does not know what is learnt from the reading.
"""

from typing import Any

import numpy as np

from service.backends.registry import ServedModel
from service.generation.checkpoint import Checkpoint
from service.generation.job import Canceller, Job, Listener
from service.generation.prompts import EncodedPrompt
from service.scheduling.sequence import SamplingParams


class Reading(Job):
    """One request in the making."""

    def __init__(
        self,
        model: ServedModel,
        prompts: list[EncodedPrompt],
        runner: Canceller,
        listener: Listener,
        timeout_s: float,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        """Prepare.

        Args:
            model: What reads.
            prompts: The texts.
            runner: What the sequences are cancelled at.
            listener: Told how it goes.
            timeout_s: See `Job`.
            checkpoint: The text that they are read after; None: none.
        """
        super().__init__(model.ref, sum(prompt.num_tokens for prompt in prompts), runner, listener, timeout_s)
        self.model, self.prompts = model, prompts
        self.options: dict[str, Any] = {"max_tokens": 0, "sampling": SamplingParams(), "seed": 0}
        self._checkpoint = checkpoint

    def choices(self, place: int) -> range:
        """Return the indexes of the sequences that a prompt needs."""
        return range(place, place + 1)

    @property
    def fingerprint(self) -> str:
        """What the values go by."""
        return self.model.fingerprint_if(self.is_reproducible)

    def stream_of(self, index: int) -> int:
        """Return which random numbers it is given; it needs none."""
        return index

    @property
    def beginning(self) -> np.ndarray:
        """The state, float32 (S,), that is to read the texts."""
        return self._checkpoint.point.state if self._checkpoint else np.zeros(self.model.card.state_size, np.float32)

    @property
    def origin(self) -> bytes:
        """What tells that state from others."""
        return self._checkpoint.origin if self._checkpoint else b""
