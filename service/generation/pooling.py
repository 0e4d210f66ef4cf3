"""Embeddings: pools the top layer's hidden states over each text.

Knows hidden states. Does not know how sequences are computed, or HTTP.
"""

import numpy as np

from contract import signatures
from service.generation.reading import Reading
from service.scheduling.sequence import PrefillResult


class Pooling(Reading):
    """A running embeddings request."""

    def prefill_signature(self, prompt_index: int) -> str:  # noqa: ARG002 - as for `Completion`
        """Return the signature that prefills a prompt."""
        return signatures.EMBED

    def vectors(self, *, mean: bool) -> list[np.ndarray]:
        """Wait for every text and return its vector, float32 (U,): the mean of its outputs, or the last one.

        Raises:
            GatewayError: see `Job.events`.
        """
        vectors: list[np.ndarray] = [np.zeros(0, np.float32)] * len(self.prompts)
        for event in self.events():
            if (
                isinstance(event, PrefillResult)
                and event.last
                and event.hidden_sum is not None
                and event.hidden_last is not None
            ):
                num_tokens = np.float32(len(self.prompts[event.index].read_ids))
                vectors[event.index] = event.hidden_sum / num_tokens if mean else event.hidden_last
                self.finish(event.index)
        return vectors
