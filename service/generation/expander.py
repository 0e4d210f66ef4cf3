"""The expansion of a search's prefixes: a step of the model for each, as sequences of one request."""

import itertools
from collections.abc import Sequence as Collection

import numpy as np

from contract import signatures
from service.generation.running_request import RunningRequest
from service.generation.search import MAX_KEPT, Node
from service.scheduling.sequence import ChoiceIndex, Sequence, Status

# An expanded prefix beside its arrays: its objects and those of the prefixes after it that wait (measured: 1,100).
_NODE_BYTES = 1500
# Expansions for which memory is held at first.
_FIRST_HELD = 1024


class Expander:
    """Computes the log probabilities after prefixes; and charges, counts and holds memory for them.

    Of all requests it takes its share of the slots, as the scheduler sees sequences of one request. The prompts are
    the roots, with index 0; every other prefix gets a number of its own.
    """

    def __init__(self, request: RunningRequest, num_held_bytes: int = 0, *, charges: bool) -> None:
        """`num_held_bytes` are held for prompts and response; `charges`: the expansions were not charged before."""
        self._request, self._num_held_bytes, self._charges = request, num_held_bytes, charges
        self._num_held, card = 0, request.model.card
        self._bytes_each = _NODE_BYTES + 4 * card.state_size + 8 * min(MAX_KEPT, card.vocab_size)
        self._numbers = itertools.count(1)
        self._nodes: dict[ChoiceIndex, Node] = {}
        self._outputs: dict[ChoiceIndex, tuple[np.ndarray, np.ndarray]] = {}

    def create(self, indexes: list[ChoiceIndex]) -> list[Sequence]:
        """Create the sequences of prompts, or of prefixes that are to be expanded."""
        return [self._sequence(index) for index in indexes]

    def expand(self, number: int, nodes: Collection[Node]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the log probabilities and the state after prefixes of a prompt; raise as `RunningRequest.results`.

        The prompts themselves were submitted before.
        """
        indexes = [(number, 0 if node.parent is None else next(self._numbers)) for node in nodes]
        self._nodes = dict(zip(indexes, nodes, strict=True))
        is_submitted = nodes[0].parent is None and nodes[0].state is None
        if not is_submitted:
            self._account(len(nodes))
        for result in self._request.run([] if is_submitted else indexes, self.create):
            if result.next_logprobs is not None and result.state is not None:
                self._outputs[result.index] = result.next_logprobs, result.state
                self._request.finish(result.index)
        return [self._outputs.pop(index) for index in indexes]

    def _account(self, count: int) -> None:
        request = self._request
        if self._charges:
            request.context.charge(count)
        request.num_completion_tokens += count
        if request.num_completion_tokens > self._num_held:
            self._num_held = max(_FIRST_HELD, 2 * request.num_completion_tokens)
            num_bytes = self._num_held_bytes + self._num_held * self._bytes_each
            request.context.memory.hold(num_bytes, "the search")

    def _sequence(self, index: ChoiceIndex) -> Sequence:
        fields = self._request.sequence_fields(index) | {"prefill_signature": signatures.NEXT_LOGPROBS}
        node = self._nodes.get(index)
        if node is None or node.parent is None:
            return Sequence(**fields, returns_state=True)
        # It has no first slot to wait for, and its state is not worth a place in the prefix cache.
        fields |= {
            "prompt_ids": np.array([node.token_id], np.int32),
            "state": node.parent.state,
            "cache_namespace": None,
        }
        return Sequence(**fields, returns_state=True, status=Status.PREEMPTED)
