"""Search for the most probable texts: best-first and beam search over the states of a model.

A state takes a few kilobytes and forks at no cost, so a search can visit thousands of prefixes. The searches are pure:
a space defines which tokens may follow a prefix and what ends a text; the expander computes the log probabilities after
prefixes, with a step of the model for each, as sequences of one request. Ties are broken by token ids, so a result
depends neither on the size of calls nor on other requests.
"""

import heapq
import itertools
from collections import abc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from contract import signatures
from service.generation.running_request import RunningRequest
from service.scheduling.sampling_inputs import Match
from service.scheduling.sequence import ChoiceIndex, Result, SearchStep, Sequence, Status

# Prefixes of one expansion: more as the search grows, up to the largest batch. Some turn out to be wasted. From 16 on,
# the ten next words after a text take 3 calls at the median, with 8 they take 4 (measured).
MIN_WIDTH, MAX_WIDTH, GROWTH = 16, 64, 8
# Most probable tokens kept for an expanded prefix; to continue with less probable ones it is expanded again.
MAX_KEPT = 256
# Bytes of an expanded prefix beside its arrays: its objects, and those of waiting prefixes after it.
_NODE_BYTES = 1500
# Expansions for which memory is held at first.
_FIRST_HELD = 1024
# Prefixes that a call of a best-first search expands ahead, as it is likely to need them next: the ten next words after
# a text take one call at the median, and 5 without (measured). With a larger vocabulary, sending the log probabilities
# takes longer than a call.
NUM_AHEAD, _MAX_VOCABULARY = 80, 4096
# Expansions ahead that are kept; the oldest are dropped.
_MAX_KEPT_AHEAD = 1024
_NO_IDS, _NO_LOGPROBS = np.zeros(0, np.int32), np.zeros(0, np.float32)
_NO_CONTINUATIONS: tuple[np.ndarray, ...] = (np.zeros(0, np.int64), _NO_IDS, _NO_LOGPROBS, np.zeros(0))


@dataclass(eq=False, slots=True)
class Node:
    """A prefix of texts: the tokens from the root, which is the prompt."""

    parent: "Node | None" = None
    token_id: int | None = None  # its last token; None: the root, or the end of a text that no token marks
    logprob: float = 0.0  # of its tokens
    depth: int = 0  # number of tokens
    progress: Any = None  # of the space
    is_complete: bool = False  # whether it is a whole text
    rank: int = 0  # its index in the parent's `following`
    bound: float = 0.0  # upper bound of the texts that begin with it and are not found yet
    # Once it is expanded: float32 (S,), the state after its last token, if it is known. In a best-first search int32
    # (≤ MAX_KEPT,), the most probable tokens that may follow, and float32, their log probabilities, descending.
    is_expanded: bool = False
    state: np.ndarray | None = None
    following: np.ndarray = field(default_factory=lambda: _NO_IDS)
    logprobs: np.ndarray = field(default_factory=lambda: _NO_LOGPROBS)
    num_dropped: int = 0  # more probable tokens, of an earlier expansion
    has_more: bool = False  # whether less probable ones were dropped

    @property
    def token_ids(self) -> list[int]:
        ids, node = list[int](), self
        while node.parent is not None:
            ids += [] if node.token_id is None else [node.token_id]
            node = node.parent
        return ids[::-1]

    def __lt__(self, other: "Node") -> bool:
        """Order nodes by their bound, in a tie by their tokens."""
        if self.bound != other.bound:
            return self.bound > other.bound
        return self.token_ids < other.token_ids


class Space(Protocol):
    """The texts among which a search finds the most probable ones."""

    def open(self, node: Node, logprobs: np.ndarray) -> tuple[np.ndarray, Node | None]:
        """Return the ids of the tokens that may follow a node, ascending, and the text that ends there, if any.

        `logprobs` are those of all tokens after the node, float32 (V,).
        """

    def extend(self, node: Node, token_id: int) -> tuple[Any, bool]:
        """Return the progress after one more token, and whether the text is complete."""


# Returns for each node the log probabilities of all tokens after it, float32 (V,), and the state there, float32 (S,),
# if it is known.
Expand = Callable[[abc.Sequence[Node]], abc.Iterable[tuple[np.ndarray, np.ndarray | None]]]


class BestFirstSearch:
    """Finds the complete texts of a space, the most probable first.

    Best-first search with the probability of a prefix as the bound: A* without a heuristic. A text is found once every
    prefix that is more probable was expanded.
    """

    def __init__(
        self, space: Space, expand: Expand, max_expanded: int, is_known: Callable[[Node], bool] = lambda _: False
    ) -> None:
        """Prepare a search that ends after `max_expanded` expansions, with `limit_reached` set.

        `is_known` returns whether the expansion of a node needs no call: it is expanded at once.
        """
        self._space, self._expand, self._max_expanded, self._is_known = space, expand, max_expanded, is_known
        self.num_expanded, self.limit_reached = 0, False

    def start(self, progress: Any) -> Iterator[Node]:
        """Yield complete texts from a root with this progress; each is at most as probable as those before it."""
        heap, found, batch = [Node(progress=progress)], list[Node](), list[Node]()
        while heap or found or batch:
            first = min(batch[:1] + heap[:1], default=None)
            if found and (first is None or found[0] < first):
                yield heapq.heappop(found)
            elif self._may_visit(heap, batch):
                self._visit(heap, found, batch)
            elif batch:
                self._expand_all(heap, batch)
                batch = []
            else:
                self.limit_reached = True
                return

    def _may_visit(self, heap: list[Node], batch: list[Node]) -> bool:
        """Return whether a node may be visited before the batch is expanded."""
        num_expanded = self.num_expanded + len(batch)
        has_room = len(batch) < max(MIN_WIDTH, min(MAX_WIDTH, self.num_expanded // GROWTH))
        return bool(heap) and has_room and (heap[0].is_complete or num_expanded < self._max_expanded)

    def _visit(self, heap: list[Node], found: list[Node], batch: list[Node]) -> None:
        """Pop the first node: a complete text goes to `found`, a known node is expanded, others join the batch."""
        node = heapq.heappop(heap)
        self._push_sibling(heap, node)
        if node.is_complete:
            heapq.heappush(found, node)
        elif self._is_known(node):
            self._expand_all(heap, [node])
        else:
            batch.append(node)

    def _expand_all(self, heap: list[Node], batch: list[Node]) -> None:
        self.num_expanded += len(batch)
        for node, (logprobs, state) in zip(batch, self._expand(batch), strict=True):
            is_first = not node.is_expanded
            ids, end = self._space.open(node, logprobs)
            if end is not None and is_first:
                end.bound = end.logprob
                heapq.heappush(heap, end)
            if not is_first:
                node.num_dropped += len(node.following)
            _keep(node, ids, logprobs, state)
            self._push_child(heap, node, 0)

    def _push_sibling(self, heap: list[Node], node: Node) -> None:
        """Push the next most probable sibling of a node."""
        parent = node.parent
        # Neither the end of a text nor a node to be expanded again.
        if parent is not None and node.token_id is not None and not node.is_expanded:
            self._push_child(heap, parent, node.rank + 1)

    def _push_child(self, heap: list[Node], parent: Node, rank: int) -> None:
        if rank < len(parent.following):
            token_id, logprob = int(parent.following[rank]), float(parent.logprobs[rank])
            heapq.heappush(heap, _child(self._space, parent, token_id, logprob, rank))
        elif parent.has_more and len(parent.following):
            parent.bound = parent.logprob + float(parent.logprobs[-1])
            heapq.heappush(heap, parent)


def beam_search(
    space: Space,
    expand: Expand,
    progress: Any,
    *,
    width: int,
    score: Callable[[Node], float],
    max_score: Callable[[Node], float],
) -> list[Node]:
    """Return up to `width` complete texts of a space, those with the highest score first.

    After each step the `width` most probable prefixes continue, and complete texts among the `width` most probable
    continuations are kept, as in Transformers' `BeamSearchScorer`. The search ends when no prefix can reach a higher
    score: `max_score` is an upper bound of those of the texts that begin with a prefix.
    """
    beams, found = [Node(progress=progress)], list[Node]()
    while beams:
        nodes = sorted(_continuations(space, expand, beams, 2 * width))
        found += [node for node in nodes[:width] if node.is_complete]
        found.sort(key=lambda node: (-score(node), node.token_ids))
        del found[width:]
        beams = [node for node in nodes if not node.is_complete][:width]
        if len(found) == width and all(max_score(node) < score(found[-1]) for node in beams):
            break
    return found


def _continuations(space: Space, expand: Expand, nodes: abc.Sequence[Node], count: int) -> Iterator[Node]:
    """Yield the most probable continuations of nodes, at least `count` if there are as many."""
    # Owners, token ids, log probabilities of the tokens, float32, and of the whole prefixes, float64.
    best, waiting, num_waiting = _NO_CONTINUATIONS, list[tuple[np.ndarray, ...]](), 0
    for owner, (node, (logprobs, state)) in enumerate(zip(nodes, expand(nodes), strict=True)):
        ids, _ = space.open(node, logprobs)
        node.is_expanded, node.state, following = True, state, logprobs[ids]
        kept = _largest(following, count)
        following = following[kept]
        waiting.append((np.full(len(kept), owner), ids[kept], following, node.logprob + following.astype(np.float64)))
        num_waiting += len(kept)
        # 10,000 nodes with as many tokens each would take gigabytes.
        if owner == len(nodes) - 1 or num_waiting > 2 * count:
            merged = [np.concatenate(parts) for parts in zip(best, *waiting, strict=True)]
            most_probable = _largest(merged[-1], count)
            best, waiting, num_waiting = tuple(part[most_probable] for part in merged), [], 0
    for owner, token_id, logprob in zip(*(part.tolist() for part in best[:3]), strict=True):
        yield _child(space, nodes[owner], token_id, logprob)


def _keep(node: Node, ids: np.ndarray, logprobs: np.ndarray, state: np.ndarray | None) -> None:
    """Keep the state after a node, and the most probable tokens below those that it has dropped."""
    logprobs = logprobs[ids]
    order = _largest(logprobs, node.num_dropped + MAX_KEPT)
    order = order[np.argsort(-logprobs[order], kind="stable")]
    kept = order[node.num_dropped : node.num_dropped + MAX_KEPT]
    node.is_expanded, node.state, node.following, node.logprobs = True, state, ids[kept], logprobs[kept]
    node.has_more = len(ids) > node.num_dropped + len(kept)


def _largest(values: np.ndarray, count: int) -> np.ndarray:
    """Return the ascending indexes of the largest values, at least `count` if there are as many: all in a tie."""
    if len(values) <= count:
        return np.arange(len(values))
    indexes: np.ndarray = np.flatnonzero(values >= np.partition(values, -count)[-count])
    return indexes


def _child(space: Space, parent: Node, token_id: int, logprob: float, rank: int = 0) -> Node:
    """Return the node after one more token, which has this log probability."""
    progress, is_complete = space.extend(parent, token_id)
    logprob += parent.logprob
    return Node(parent, token_id, logprob, parent.depth + 1, progress, is_complete, rank, bound=logprob)


@dataclass(eq=False, slots=True)
class Expansion:
    """The expansion of a prefix, with those of its continuations that were expanded along with it."""

    logprobs: np.ndarray  # float32 (V,), of every token
    # float32 (S,); None if it was expanded ahead: states are large, and few of these are needed.
    state: np.ndarray | None = None
    ahead: dict[int, "Expansion"] = field(default_factory=dict)  # by token

    def count(self) -> int:
        """Return the number of expansions: it and all ahead of it."""
        return 1 + sum(each.count() for each in self.ahead.values())


class Expander:
    """Computes the log probabilities after prefixes, charges and counts them, and holds memory for them.

    For the scheduler the prompts, with index 0, and each batch of prefixes are sequences of one request.
    """

    def __init__(self, request: RunningRequest, num_held_bytes: int = 0, *, is_best_first: bool) -> None:
        """`num_held_bytes` are held for prompts and response.

        A best-first search is charged for its expansions, and computes some ahead. A beam search was charged before,
        and needs all prefixes of a step at once.
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
        num_following = min(MAX_KEPT, card.vocab_size) if is_best_first else 0
        self._bytes_each = _NODE_BYTES + 4 * card.state_size + 8 * num_following
        self._numbers, self._batch = itertools.count(1), list[Node]()
        self._prompts: dict[int, Expansion] = {}
        self._matches: abc.Sequence[Match | None] = ()

    def submit(self, matches: abc.Sequence[Match | None]) -> None:
        """Submit the prompts; the progress of each one's nodes is the row of its match, if it has one."""
        self._matches = matches
        # All prompts are expanded before the first search begins.
        num_expansions = len(matches) * (1 + self._num_ahead)
        self._num_held_bytes += num_expansions * 4 * self._request.model.card.vocab_size
        self._request.context.memory.hold(self._num_held_bytes, "the search")
        self._request.keep_admission()
        self._request.submit(self.create)

    def create(self, indexes: list[ChoiceIndex]) -> list[Sequence]:
        (index,) = indexes
        match = self._matches[index[0]] if self._num_ahead else None
        fields: dict[str, Any] = {"search": SearchStep(self._num_ahead, matches=(match,))}
        if index[1] > 0:
            logprobs = tuple(node.logprob for node in self._batch)
            matches = tuple(replace(match, row=node.progress) if match else None for node in self._batch)
            states, unread = zip(*map(_last_state, self._batch), strict=True)
            fields["search"] = SearchStep(self._num_ahead, logprobs, matches, unread)
            last_ids = np.array([node.token_id for node in self._batch], np.int32)
            fields |= {"prompt_ids": last_ids, "state": np.stack(states)}
            # It has no first slot to wait for, and its states are not worth caching.
            fields |= {"status": Status.PREEMPTED, "cache_namespace": None}
        return [self._request.new_sequence(index, prefill_signature=signatures.NEXT_LOGPROBS, **fields)]

    def expand(self, number: int, nodes: abc.Sequence[Node]) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """Yield the log probabilities after prefixes of a prompt, and the states; raise as `RunningRequest.results`.

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
        for node, found in zip(nodes, known, strict=True):
            yield self._take(node, found or next(computed))

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
        """Charge and count the expansions since the last call at once, as charging may take a request to Redis."""
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
