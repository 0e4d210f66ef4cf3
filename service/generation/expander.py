"""The expansion of a search's prefixes: a step of the model for each, as sequences of one request."""

import itertools
from collections import abc
from collections.abc import Iterator

import numpy as np

from contract import signatures
from service.generation.running_request import RunningRequest
from service.generation.search import MAX_KEPT, Node
from service.scheduling.sequence import ChoiceIndex, Sequence, Status

# An expanded prefix beside its arrays: its objects and those of the prefixes after it that wait.
_NODE_BYTES = 1500
# Expansions for which memory is held at first.
_FIRST_HELD = 1024
Expansion = tuple[np.ndarray, np.ndarray]


class Expander:
    """Computes the log probabilities after prefixes; and charges, counts and holds memory for them.

    For the scheduler the prompts, with index 0, and each batch of prefixes are sequences of one request.
    """

    def __init__(self, request: RunningRequest, num_held_bytes: int = 0, *, charges: bool) -> None:
        """`num_held_bytes` are held for prompts and response; `charges`: the expansions were not charged before."""
        self._request, self._num_held_bytes, self._charges = request, num_held_bytes, charges
        self._num_held, card = 0, request.model.card
        self._bytes_each = _NODE_BYTES + 4 * card.state_size + 8 * min(MAX_KEPT, card.vocab_size)
        self._numbers, self._batch = itertools.count(1), list[Node]()
        self._prompts: dict[int, Expansion] = {}

    def create(self, indexes: list[ChoiceIndex]) -> list[Sequence]:
        """Create the sequence of a prompt, or of the batch that is to be expanded."""
        (index,) = indexes
        fields = self._request.sequence_fields(index) | {"prefill_signature": signatures.NEXT_LOGPROBS}
        if index[1] > 0:
            states = np.stack(
                [parent.state for node in self._batch if (parent := node.parent) and parent.state is not None]
            )
            fields |= {"prompt_ids": np.array([node.token_id for node in self._batch], np.int32), "state": states}
            # It has no first slot to wait for, and its states are not worth a place in the prefix cache.
            fields |= {"status": Status.PREEMPTED, "cache_namespace": None}
        return [Sequence(**fields)]

    def expand(self, number: int, nodes: abc.Sequence[Node]) -> list[Expansion]:
        """Return the log probabilities and the state after prefixes of a prompt; raise as `RunningRequest.results`.

        The prompts were submitted before.
        """
        if not self._prompts:
            for result in self._request.results(self.create):
                if result.next_logprobs is not None and result.state is not None:
                    self._prompts[result.index[0]] = result.next_logprobs[0], result.state[0]
                    self._request.finish(result.index)
        steps = self._steps(number, [node for node in nodes if node.parent is not None])
        return [self._prompts[number] if node.parent is None else next(steps) for node in nodes]

    def _steps(self, number: int, nodes: list[Node]) -> Iterator[Expansion]:
        largest = self._request.model.batch_limits.batch_sizes[-1]
        for start in range(0, len(nodes), largest):
            self._batch = nodes[start : start + largest]
            self._account(len(self._batch))
            result = self._request.run((number, next(self._numbers)), self.create)
            assert result.next_logprobs is not None, "a step of a search returns them"
            assert result.state is not None, "and the states"
            yield from zip(result.next_logprobs, result.state, strict=True)

    def _account(self, count: int) -> None:
        request = self._request
        if self._charges:
            request.context.charge(count)
        request.num_completion_tokens += count
        if request.num_completion_tokens > self._num_held:
            self._num_held = max(_FIRST_HELD, 2 * request.num_completion_tokens)
            num_bytes = self._num_held_bytes + self._num_held * self._bytes_each
            request.context.memory.hold(num_bytes, "the search")
