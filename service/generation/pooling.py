"""Embeddings: pools the top layer's hidden states over each text."""

import numpy as np

from contract import signatures
from service.api.requests import EmbeddingsRequest
from service.generation.feeder import Feeder
from service.generation.request import Request
from service.scheduling.sequence import PrefillResult, Sequence


class PoolingBuilder:
    """The output builder of an embeddings request."""

    def __init__(self, body: EmbeddingsRequest, request: Request, *, max_unfinished: int) -> None:
        self.request, self.body = request, body
        prompts = range(len(request.prompts))
        self._feeder: Feeder[int] = Feeder(request, prompts, lambda index: index, max_unfinished=max_unfinished)

    def admit(self) -> None:
        """Admit the first prompts; raise as `Feeder.admit_first`."""
        self._feeder.admit_first()

    def submit(self) -> None:
        """Submit the admitted prompts."""
        self._feeder.submit(self._create)

    def _create(self, indexes: list[int]) -> list[list[Sequence]]:
        return [[self.request.new_sequence(i, self.request.prompts[i], signatures.EMBED)] for i in indexes]

    def vectors(self) -> list[np.ndarray]:
        """Wait for every text; return its vector, float32 (U,): the mean of its hidden states, or the last of them."""
        request, mean = self.request, self.body.pooling == "mean"
        vectors: list[np.ndarray] = [np.zeros(0, np.float32)] * len(request.prompts)
        for event in self._feeder.events(self._create):
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
