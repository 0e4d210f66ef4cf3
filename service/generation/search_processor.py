"""The processor of a completion that searches: the most probable texts of each prompt, exactly or by beam search."""

from collections import abc
from collections.abc import Iterator
from functools import partial

import numpy as np

from contract import signatures
from service.api.requests import CompletionRequest
from service.errors import InvalidRequest
from service.generation.choice import TextDelta
from service.generation.prompts import EncodedPrompt
from service.generation.running_request import RunningRequest
from service.generation.search import BestFirstSearch, Expander, Node, beam_search
from service.models.registry import ServedModel
from service.scheduling.sampling_inputs import Match
from service.scheduling.sequence import ChoiceIndex, FinishReason


class TextSpace:
    """The texts that sampling could generate: up to the EOS token, the end of a match, or `max_tokens`.

    The progress of a node is the automaton's row, or `UNCONSTRAINED_ROW`.
    """

    def __init__(self, model: ServedModel, match: Match | None, *, max_tokens: int, min_tokens: int) -> None:
        self._match, self._max_tokens, self._min_tokens = match, max_tokens, min_tokens
        special, num_tokens = model.tokenizer.special, len(model.tokenizer.tokens)
        self._end_id = special.end
        self._sampled = np.setdiff1d(np.arange(num_tokens, dtype=np.int32), special.never_sampled)

    @property
    def root(self) -> int:
        """The progress before the first token."""
        return self._match.row if self._match else signatures.UNCONSTRAINED_ROW

    def open(self, node: Node, logprobs: np.ndarray) -> tuple[np.ndarray, None]:  # noqa: ARG002 - it needs none
        """See `Space`: the tokens that sampling allows."""
        ids = self._sampled
        if self._match is not None:
            is_limited = self._match.num_left is not None
            limit = min(self._left(node.depth), signatures.FORBIDDEN_DISTANCE - is_limited) << signatures.ROW_BITS
            ids = np.flatnonzero(self._match.automaton.table[node.progress] < limit).astype(np.int32)
        return (ids[ids != self._end_id] if node.depth < self._min_tokens else ids), None

    def extend(self, node: Node, token_id: int) -> tuple[int, bool]:
        """See `Space`; the counterpart of `Sequence.finish_reason`."""
        depth, row = node.depth + 1, node.progress
        is_complete = token_id == self._end_id or depth == self._max_tokens
        if self._match is not None:
            row = self._match.automaton.step(row, token_id)
            is_complete = is_complete or self._match.automaton.must_end(row, self._left(depth))
        return row, is_complete

    def finish_reason(self, node: Node) -> FinishReason:
        return "stop" if node.token_id == self._end_id or node.progress == signatures.FINAL_ROW else "length"

    def _left(self, depth: int) -> int:
        """Return the tokens that may follow; without a limit if a match may be cut off."""
        if self._match is None or self._match.num_left is None:
            return signatures.FORBIDDEN_DISTANCE
        return self._match.num_left - depth


class SearchProcessor:
    """Searches for the choices of each prompt; the counterpart of `CompletionProcessor`, and never a stream."""

    num_rejected = None
    prepends = False

    def __init__(
        self, body: CompletionRequest, request: RunningRequest, num_held_bytes: int, max_expanded: int
    ) -> None:
        """`num_held_bytes` are held for prompts and response; `max_expanded` limits the expansions for each prompt."""
        self.body, self.request, self.seed = body, request, body.seed
        self._max_expanded = max_expanded
        self._expander = Expander(request, num_held_bytes, is_best_first=body.top_texts is not None)
        self._matches: abc.Sequence[Match | None] = ()
        # Whether a search has ended at its limit, with fewer texts than requested; None: it has none.
        self.limit_reached: bool | None = None if body.top_texts is None else False

    def choices_to_submit(self) -> Iterator[ChoiceIndex]:
        return ((number, 0) for number in range(len(self.request.prompts)))

    def submit(self, matches: abc.Sequence[Match | None]) -> None:
        """Submit the prompts; the texts of each start with a match of its constraint."""
        self._matches = matches
        self._expander.submit(matches)

    def results(self) -> list[TextDelta]:
        """Search for each prompt in turn; return the choices in the response's order.

        Raises:
            InvalidRequest: the limit was reached before the first text was found.
            GatewayError: as `RunningRequest.results`.
        """
        results: list[TextDelta] = []
        for number, (prompt, match) in enumerate(zip(self.request.prompts, self._matches, strict=True)):
            body, sampling = self.body, self.body.sampling
            space = TextSpace(self.request.model, match, max_tokens=body.max_tokens, min_tokens=sampling.min_tokens)
            nodes = self._beams(number, space) if body.top_texts is None else self._top_texts(number, space, prompt)
            for rank, (node, text) in enumerate(nodes):
                reason = space.finish_reason(node)
                index = number * body.num_choices + rank
                results.append(TextDelta(index, text, reason, cumulative_logprob=node.logprob))
                self.request.finish((number, rank), reason)
        return results

    def partial_outputs(self, **_: bool) -> list[TextDelta]:
        """Return nothing: a search that failed has no partial output."""
        return []

    def prompt_logprobs(self, _index: int) -> None:
        """Return None: they cannot be requested of a search."""

    def _beams(self, number: int, space: TextSpace) -> list[tuple[Node, str]]:
        body, prompt = self.body, self.request.prompts[number]
        num_prompt_tokens, end_id = len(prompt.input_ids), prompt.tokenizer.special.end

        def score(node: Node, depth: int | None = None) -> float:
            # As in vLLM, the prompt counts and the EOS token does not.
            length = num_prompt_tokens + (node.depth - (node.token_id == end_id) if depth is None else depth)
            return float(node.logprob / length**body.length_penalty)

        def max_score(node: Node) -> float:
            return max(score(node), score(node, body.max_tokens))

        expand = partial(self._expander.expand, number)
        found = beam_search(space, expand, space.root, width=body.best_of, score=score, max_score=max_score)
        return [(node, self._text(prompt, node)) for node in found[: body.n]]

    def _top_texts(self, number: int, space: TextSpace, prompt: EncodedPrompt) -> list[tuple[Node, str]]:
        expander = self._expander
        search = BestFirstSearch(space, partial(expander.expand, number), self._max_expanded, expander.is_known)
        found: dict[str, Node] = {}
        for node in search.start(space.root):
            # The first is the most probable of those whose tokens differ.
            found.setdefault(self._text(prompt, node), node)
            if len(found) == self.body.top_texts:
                break
        expander.charge()
        if search.limit_reached and not found:
            limit = f"{self._max_expanded} tokens were computed before the most probable text was found"
            raise InvalidRequest(f"top_texts: {limit}; give a pattern or fewer max_tokens", param="top_texts")
        self.limit_reached = self.limit_reached or search.limit_reached
        return [(node, text) for text, node in found.items()]

    def _text(self, prompt: EncodedPrompt, node: Node) -> str:
        backward, end_id = prompt.backward, prompt.tokenizer.special.end
        detokenizer = prompt.tokenizer.detokenizer(prompt.text, backward=backward)
        delta = detokenizer.feed([token_id for token_id in node.token_ids if token_id != end_id])
        rest = detokenizer.flush()
        return rest + delta if backward else delta + rest
