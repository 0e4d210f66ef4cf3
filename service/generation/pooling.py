"""Embeddings: pools the top layer's hidden states over each text.

Knows hidden states. Does not know how sequences are computed, or HTTP.
"""

import numpy as np

from contract import signatures
from service.api.requests import EmbeddingsRequest
from service.generation.request import Request
from service.scheduling.sequence import PrefillResult, Sequence


class PoolingBuilder:
    """The output builder of an embeddings request."""

    def __init__(self, body: EmbeddingsRequest, request: Request) -> None:
        self.request, self.body = request, body

    def new_sequences(self) -> list[list[Sequence]]:
        """Return its sequences: each prompt's own."""
        return [
            [self.request.new_sequence(index, prompt, signatures.EMBED)]
            for index, prompt in enumerate(self.request.prompts)
        ]

    def vectors(self) -> list[np.ndarray]:
        """Wait for every text; return its vector, float32 (U,): the mean of its hidden states, or the last of them."""
        request, mean = self.request, self.body.pooling == "mean"
        vectors: list[np.ndarray] = [np.zeros(0, np.float32)] * len(request.prompts)
        for event in request.events():
            if (
                isinstance(event, PrefillResult)
                and event.last
                and event.hidden_sum is not None
                and event.hidden_last is not None
            ):
                num_tokens = np.float32(len(request.prompts[event.index].input_ids))
                vectors[event.index] = event.hidden_sum / num_tokens if mean else event.hidden_last
                request.finish(event.index)
        return vectors
