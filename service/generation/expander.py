"""The expansion of a search's prefixes: a step of the model for each, as sequences of one request."""

import itertools
from collections import abc
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from contract import signatures
from service.generation.running_request import RunningRequest
from service.generation.search import MAX_KEPT, Node
from service.scheduling.sampling import Match
from service.scheduling.sequence import ChoiceIndex, Result, SearchStep, Sequence, Status

# An expanded prefix beside its arrays: its objects and those of the prefixes after it that wait.
_NODE_BYTES = 1500
# Expansions for which memory is held at first.
_FIRST_HELD = 1024
# Prefixes that a call of a best-first search expands ahead, as it is likely to need them next: the ten next words after
# a text take one call in the median, with none 5 (measured). Of a larger vocabulary, the log probabilities take longer
# to send than a call costs.
NUM_AHEAD, _MAX_VOCABULARY = 80, 4096
# Expansions ahead that are kept; the oldest are dropped.
_MAX_KEPT_AHEAD = 1024


@dataclass(eq=False, slots=True)
class Expansion:
    """What follows a prefix, and those of its continuations that were expanded with it."""

    logprobs: np.ndarray  # float32 (V,), of every token
    # float32 (S,); None if it was expanded ahead: states are large, and few of these are needed.
    state: np.ndarray | None = None
    ahead: dict[int, "Expansion"] = field(default_factory=dict)  # by token

    def count(self) -> int:
        """Return the number of expansions: it and all ahead of it."""
        return 1 + sum(each.count() for each in self.ahead.values())


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
        # By a prefix that was expanded, and the token after it.
        self._ahead: dict[tuple[Node | None, int | None], Expansion] = {}
        self._num_kept = self._num_uncharged = 0
        ahead_bytes = _MAX_KEPT_AHEAD * 4 * card.vocab_size if self._num_ahead else 0
        self._num_held_bytes = num_held_bytes + ahead_bytes
        self._bytes_each = _NODE_BYTES + 4 * card.state_size + 8 * min(MAX_KEPT, card.vocab_size)
        self._numbers, self._batch = itertools.count(1), list[Node]()
        self._prompts: dict[int, Expansion] = {}
        self._matches: abc.Sequence[Match | None] = ()

    def submit(self, matches: abc.Sequence[Match | None]) -> None:
        """Submit the prompts; the progress of each one's nodes is the row of its match, if it has one."""
        self._matches = matches
        self._request.submit(self.create)

    def create(self, indexes: list[ChoiceIndex]) -> list[Sequence]:
        (index,) = indexes
        fields = self._request.sequence_fields(index) | {"prefill_signature": signatures.NEXT_LOGPROBS}
        match = self._matches[index[0]] if self._num_ahead else None
        fields["search"] = SearchStep(self._num_ahead, matches=(match,))
        if index[1] > 0:
            logprobs = tuple(node.logprob for node in self._batch)
            matches = tuple(replace(match, row=node.progress) if match else None for node in self._batch)
            states, unread = zip(*map(_last_state, self._batch), strict=True)
            fields["search"] = SearchStep(self._num_ahead, logprobs, matches, unread)
            last_ids = np.array([node.token_id for node in self._batch], np.int32)
            fields |= {"prompt_ids": last_ids, "state": np.stack(states)}
            # It has no first slot to wait for, and its states are not worth a place in the prefix cache.
            fields |= {"status": Status.PREEMPTED, "cache_namespace": None}
        return [Sequence(**fields)]

    def expand(self, number: int, nodes: abc.Sequence[Node]) -> list[tuple[np.ndarray, np.ndarray | None]]:
        """Return the log probabilities after prefixes of a prompt, and the states; raise as `RunningRequest.results`.

        The prompts were submitted before.
        """
        if not self._prompts:
            for result in self._request.results(self.create):
                if result.next_logprobs is not None:
                    (self._prompts[result.index[0]],) = self._expansions(result, 1)
                    self._request.finish(result.index)
        self._num_uncharged += sum(node.parent is not None for node in nodes)
        known = [
            self._prompts[number] if node.parent is None else self._ahead.pop((node.parent, node.token_id), None)
            for node in nodes
        ]
        unknown = [node for node, found in zip(nodes, known, strict=True) if found is None]
        if unknown:
            self.charge()
        computed = self._compute(number, unknown)
        return [self._take(node, found or next(computed)) for node, found in zip(nodes, known, strict=True)]

    def is_known(self, node: Node) -> bool:
        """Return whether the next expansion of a prefix needs no call."""
        return (node.parent, node.token_id) in self._ahead

    def _compute(self, number: int, nodes: list[Node]) -> Iterator[Expansion]:
        largest = self._request.model.batch_limits.batch_sizes[-1]
        for start in range(0, len(nodes), largest):
            self._batch = nodes[start : start + largest]
            yield from self._expansions(self._request.run((number, next(self._numbers)), self.create), len(self._batch))

    def _expansions(self, result: Result, count: int) -> list[Expansion]:
        """Return the expansions of the first `count` prefixes of a step, which lead to all others."""
        assert result.next_logprobs is not None, "a step of a search returns the log probabilities"
        assert result.state is not None, "and the states"
        # Copies: a view of one row would keep those of the whole step.
        expansions = [Expansion(logprobs.copy()) for logprobs in result.next_logprobs]
        for expansion, state in zip(expansions, result.state, strict=False):
            expansion.state = state.copy()
        for (parent, token_id), expansion in zip(result.appended, expansions, strict=True):
            if parent >= 0:
                expansions[parent].ahead[token_id] = expansion
        self._num_kept += len(expansions)
        return expansions[:count]

    def _take(self, node: Node, expansion: Expansion) -> tuple[np.ndarray, np.ndarray | None]:
        """Return an expansion, and keep those ahead of it for the prefixes that continue this one."""
        for token_id, following in expansion.ahead.items():
            self._ahead[node, token_id] = following
        self._num_kept -= 1
        while self._ahead and self._num_kept > _MAX_KEPT_AHEAD:
            self._num_kept -= self._ahead.pop(next(iter(self._ahead))).count()
        return expansion.logprobs, expansion.state

    def charge(self) -> None:
        """Charge and count the expansions since the last time, at once: to charge may take a request to Redis."""
        request, count = self._request, self._num_uncharged
        if self._charges and count:
            request.context.charge(count)
        self._num_uncharged = 0
        request.num_completion_tokens += count
        if request.num_completion_tokens > self._num_held:
            self._num_held = max(_FIRST_HELD, 2 * request.num_completion_tokens)
            num_bytes = self._num_held_bytes + self._num_held * self._bytes_each
            request.context.memory.hold(num_bytes, "the search")


def _last_state(node: Node) -> tuple[np.ndarray, list[int]]:
    """Return the last known state before a node's last token, and the tokens between them."""
    unread, before = list[int](), node.parent
    while before is not None and before.state is None:
        assert before.token_id is not None, "the state after the prompt is known"
        unread.append(before.token_id)
        before = before.parent
    assert before is not None, "the state after the prompt is known"
    assert before.state is not None, "the loop ends at a state"
    return before.state, unread[::-1]
