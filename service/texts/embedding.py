"""Texts that are only read: for each what the model's top layer says of it.

Knows hidden states. Does not know how sequences are computed, or HTTP.
"""

from typing import Any

import numpy as np

from contract import signatures
from service.scheduling.sequence import Read, Sampling
from service.servers.catalog import LiveModel
from service.texts.job import Canceller, Job, Listener
from service.texts.prompts import EncodedPrompt


class Embedding(Job):
    """One request for embeddings in the making."""

    def __init__(
        self, model: LiveModel, prompts: list[EncodedPrompt], runner: Canceller, listener: Listener, timeout_s: float
    ) -> None:
        super().__init__(model.ref, sum(prompt.num_tokens for prompt in prompts), runner, listener, timeout_s)
        self.model, self.prompts = model, prompts
        self.options: dict[str, Any] = {"max_tokens": 0, "sampling": Sampling(), "seed": 0}

    def choices(self, place: int) -> range:
        """Return the indexes of the sequences that a prompt needs."""
        return range(place, place + 1)

    @property
    def fingerprint(self) -> str:
        """What the vectors go by."""
        return self.model.fingerprint_if(self.is_as_promised)

    def stream_of(self, index: int) -> int:
        """Return which random numbers it is given; it needs none."""
        return index

    @property
    def beginning(self) -> np.ndarray:
        """The state, float32 (S,), that is to read the texts."""
        return np.zeros(self.model.card.state_size, np.float32)

    @property
    def origin(self) -> bytes:
        """What tells that state from others."""
        return b""

    def reads_by(self, place: int) -> str:  # noqa: ARG002 - as for `Generation`
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
