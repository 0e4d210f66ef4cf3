"""Texts that are only read: for each what the model's top layer says of it.

Knows hidden states. Does not know how sequences are computed, or HTTP.
"""

import numpy as np

from contract import signatures
from service.generation.reading import Reading
from service.scheduling.sequence import Read


class Pooling(Reading):
    """One request for embeddings in the making."""

    def prefill_signature(self, place: int) -> str:  # noqa: ARG002 - as for `Completion`
        """Return the signature by which a prompt is read."""
        return signatures.EMBED

    def vectors(self, *, mean: bool) -> list[np.ndarray]:
        """Wait for every text; float32 (U,) each: its mean or its last output.

        Raises:
            GatewayError: see `Job.events`.
        """
        vectors: list[np.ndarray] = [np.zeros(0, np.float32)] * len(self.prompts)
        for event in self.events():
            if (
                isinstance(event, Read)
                and event.last
                and event.hidden_sum is not None
                and event.hidden_last is not None
            ):
                num_tokens = np.float32(len(self.prompts[event.index].read_ids))
                vectors[event.index] = event.hidden_sum / num_tokens if mean else event.hidden_last
                self.finish(event.index)
        return vectors
