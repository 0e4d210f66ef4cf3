"""The expansion of a search's prefixes: a step of the model for each, as sequences of one request."""

import itertools
from collections import abc
from collections.abc import Iterator

import numpy as np

from contract import signatures
from service.generation.running_request import RunningRequest
from service.generation.search import MAX_KEPT, Node
from service.scheduling.sequence import ChoiceIndex, Result, Sequence, Status

# An expanded prefix beside its arrays: its objects and those of the prefixes after it that wait.
_NODE_BYTES = 1500
# Expansions for which memory is held at first.
_FIRST_HELD = 1024
# A best-first search mostly continues a prefix with the most probable token, so each step of the model is followed by
# as many that it is likely to need next: the ten next words after a text take 3 calls in the median, without 6
# (measured). Of a larger vocabulary, the log probabilities take longer to send than a call costs.
NUM_AHEAD, _MAX_VOCABULARY = 3, 4096
# Expansions ahead that are kept; the oldest are dropped.
_MAX_KEPT_AHEAD = 1024
Expansion = tuple[np.ndarray, np.ndarray]
# Expansions one after another: the token before each, None before the first, log probabilities and state.
_Chain = list[tuple[int | None, np.ndarray, np.ndarray]]


class Expander:
    """Computes the log probabilities after prefixes; and charges, counts and holds memory for them.

    For the scheduler the prompts, with index 0, and each batch of prefixes are sequences of one request.
    """

    def __init__(self, request: RunningRequest, num_held_bytes: int = 0, *, is_best_first: bool) -> None:
        """`num_held_bytes` are held for prompts and response.

        A best-first search is charged for its expansions, and computes some ahead. A beam's were charged before, and it
        needs all prefixes of a step at once.
        """
        self._request, self._charges = request, is_best_first
        self._num_held, card = 0, request.model.card
        is_small = card.vocab_size <= _MAX_VOCABULARY
        self._num_ahead = NUM_AHEAD if is_best_first and is_small else 0
        # By a prefix and the token after it: the expansion there, and the tokens and expansions that follow greedily.
        self._ahead: dict[tuple[Node | None, int | None], _Chain] = {}
        ahead_bytes = _MAX_KEPT_AHEAD * 4 * (card.state_size + card.vocab_size) if self._num_ahead else 0
        self._num_held_bytes = num_held_bytes + ahead_bytes
        self._bytes_each = _NODE_BYTES + 4 * card.state_size + 8 * min(MAX_KEPT, card.vocab_size)
        self._numbers, self._batch = itertools.count(1), list[Node]()
        self._prompts: dict[int, _Chain] = {}

    def create(self, indexes: list[ChoiceIndex]) -> list[Sequence]:
        """Create the sequence of a prompt, or of the batch that is to be expanded."""
        (index,) = indexes
        fields = self._request.sequence_fields(index) | {"prefill_signature": signatures.NEXT_LOGPROBS}
        fields["num_ahead"] = self._num_ahead
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
                if result.next_logprobs is not None:
                    (self._prompts[result.index[0]],) = _chains(result)
                    self._request.finish(result.index)
        self._account(sum(node.parent is not None for node in nodes))
        known = [
            self._prompts[number] if node.parent is None else self._ahead.pop((node.parent, node.token_id), None)
            for node in nodes
        ]
        computed = self._compute(number, [node for node, chain in zip(nodes, known, strict=True) if chain is None])
        return [self._take(node, chain or next(computed)) for node, chain in zip(nodes, known, strict=True)]

    def is_known(self, node: Node) -> bool:
        """Return whether the next expansion of a prefix needs no call."""
        return (node.parent, node.token_id) in self._ahead

    def _compute(self, number: int, nodes: list[Node]) -> Iterator[_Chain]:
        largest = self._request.model.batch_limits.batch_sizes[-1]
        for start in range(0, len(nodes), largest):
            self._batch = nodes[start : start + largest]
            yield from _chains(self._request.run((number, next(self._numbers)), self.create))

    def _take(self, node: Node, chain: _Chain) -> Expansion:
        """Return the first expansion of a chain, and keep the rest for the prefix that continues this one greedily."""
        (_, logprobs, state), *rest = chain
        if rest:
            self._ahead[node, rest[0][0]] = rest
            if len(self._ahead) > _MAX_KEPT_AHEAD // NUM_AHEAD:
                del self._ahead[next(iter(self._ahead))]
        return logprobs, state

    def _account(self, count: int) -> None:
        request = self._request
        if self._charges:
            request.context.charge(count)
        request.num_completion_tokens += count
        if request.num_completion_tokens > self._num_held:
            self._num_held = max(_FIRST_HELD, 2 * request.num_completion_tokens)
            num_bytes = self._num_held_bytes + self._num_held * self._bytes_each
            request.context.memory.hold(num_bytes, "the search")


def _chains(result: Result) -> Iterator[_Chain]:
    """Yield the chain of each prefix of a step."""
    assert result.ahead_ids is not None, "a step of a search returns them"
    assert result.next_logprobs is not None, "and the log probabilities"
    assert result.state is not None, "and the states"
    for ids, rows, states in zip(result.ahead_ids.tolist(), result.next_logprobs, result.state, strict=True):
        # Copies: a view of one row would keep those of the whole step.
        entries = zip([None, *ids], rows, states, strict=True)
        yield [(token_id, logprobs.copy(), state.copy()) for token_id, logprobs, state in entries]
