"""Submits the sequences of a request in their order, as admission control has room for them."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Generic, TypeVar

from service.errors import Overloaded
from service.generation.request import Request
from service.scheduling.sequence import Event, Sequence

# Seconds between attempts to submit more while none of the request's sequences is unfinished.
_RESUBMIT_S = 0.05
T = TypeVar("T")
# Creates the sequences of some items, grouped by prompt; the choices of a prompt are adjacent. Not kept by a feeder: it
# is a method of the builder that has the feeder, and this cycle would keep the prompts until a garbage collection.
Create = Callable[[list[T]], list[list[Sequence]]]


class Feeder(Generic[T]):
    """The sequences of a request that were not submitted yet.

    Attributes:
        waiting: What makes each of them: a prompt, or one of its choices.
    """

    def __init__(
        self,
        request: Request,
        waiting: Iterable[T],
        prompt_index: Callable[[T], int],
        *,
        max_tokens: int = 0,
        max_unfinished: int,
    ) -> None:
        """Prepare.

        Args:
            request: The request.
            waiting: What makes each sequence.
            prompt_index: Returns the prompt of one of those.
            max_tokens: Maximum number of tokens that a sequence generates.
            max_unfinished: Maximum number of unfinished sequences.
        """
        self.request, self.waiting = request, deque(waiting)
        self._prompt_index, self._max_tokens = prompt_index, max_tokens
        self._max_unfinished, self._num_submitted = max_unfinished, 0
        self._admitted: list[T] = []

    def admit_first(self) -> None:
        """Admit the first sequences; `submit` then submits them.

        Raises:
            InvalidRequest: a sequence alone exceeds a limit.
            Overloaded: there is no room for one.
        """
        prompts = {self._prompt_index(item) for item in self.waiting}
        if prompts:
            self.request.admission.require_possible(max(map(self._num_prompt_tokens, prompts)) + self._max_tokens)
        self._admit()

    def submit(self, create: Create[T]) -> list[list[Sequence]]:
        """Create and submit the admitted sequences; return them by prompt."""
        admitted, self._admitted = self._admitted, []
        groups = create(admitted) if admitted else []
        self.request.submit(groups)
        self._num_submitted = len(self.request.sequences)
        return groups

    @property
    def is_finished(self) -> bool:
        """Whether all sequences have finished."""
        return self.request.is_finished and not self.waiting

    def events(self, create: Create[T]) -> Iterator[Event | list[list[Sequence]]]:
        """Yield the events of all sequences, and the groups that are submitted meanwhile; raise as `Request.events`."""
        while not self.is_finished:
            for event in self.request.events():
                yield event
                if self.waiting and len(self.request.sequences) < self._num_submitted:
                    yield self._submit_more(create)
            if self.waiting:
                # All submitted sequences have finished, and other requests have filled the queue.
                self.request.require_active()
                time.sleep(_RESUBMIT_S)
                yield self._submit_more(create)

    def _submit_more(self, create: Create[T]) -> list[list[Sequence]]:
        # Until the next one finishes, unless more are submitted now.
        self._num_submitted = len(self.request.sequences)
        try:
            self._admit()
        except Overloaded:
            return []
        return self.submit(create) if self._admitted else []

    def _admit(self) -> None:
        window = list(islice(self.waiting, self._max_unfinished - len(self.request.sequences)))
        costs, before = [], None
        for item in window:
            # One sequence prefills a prompt for all of its choices.
            prompt = self._prompt_index(item)
            costs.append(self._max_tokens + (self._num_prompt_tokens(prompt) if prompt != before else 0))
            before = prompt
        for _ in range(self.request.admission.admit(costs) if costs else 0):
            self._admitted.append(self.waiting.popleft())

    def _num_prompt_tokens(self, prompt_index: int) -> int:
        return len(self.request.prompts[prompt_index].input_ids)
