"""From a valid request to its text: encode, schedule, assemble.

Knows tokenizers and sequences. Does not know HTTP, and does not compute.
"""

import queue
from collections.abc import Iterator
from collections.abc import Sequence as Many
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from service.catalog import LiveModel
from service.errors import ClientGone, InvalidRequest
from service.policy import Shapes
from service.schema import CompletionRequest
from service.sequence import Chunk, Event, Failure, Sequence
from service.text import TextAssembler


class Models(Protocol):
    """Where a model's name becomes a version that answers."""

    def find(self, name: str) -> LiveModel:
        """Return the version to use, or raise `ModelNotFound`."""


class Runner(Protocol):
    """What computes sequences."""

    def submit(self, sequences: Many[Sequence], shapes: Shapes) -> None:
        """Accept the choices of one request, or raise `Overloaded`."""

    def cancel(self, sequences: Many[Sequence]) -> None:
        """Forget sequences; ended ones are left alone."""


@dataclass(frozen=True)
class Piece:
    """Text of one choice.

    Attributes:
        finish_reason: "stop" or "length" with the choice's last piece, else None.
    """

    choice: int
    text: str
    finish_reason: str | None


class Generation:
    """One request in the making: iterate over it for its pieces, in order of arrival."""

    def __init__(self, request: CompletionRequest, model: LiveModel, num_prompt_tokens: int, runner: Runner) -> None:
        self.request, self.model = request, model
        self.num_prompt_tokens = num_prompt_tokens
        self.sequences: list[Sequence] = []
        self.events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._runner = runner
        self._unfinished = set(range(request.num_choices)) if request.max_tokens else set()
        self._assemblers = [
            TextAssembler(model.tokenizer.detokenizer(request.prompt), request.stops)
            for _ in range(request.num_choices)
        ]

    @property
    def num_completion_tokens(self) -> int:
        """Tokens of all choices so far, those behind a stop string not counted."""
        return sum(assembler.num_tokens for assembler in self._assemblers)

    def cancel(self) -> None:
        """Free the rows; from any thread, any number of times. An iteration that waits ends."""
        if self._unfinished:
            self._runner.cancel(self.sequences)
            self.events.put(None)

    def __iter__(self) -> Iterator[Piece]:
        """Yield every choice's pieces until all have ended.

        Raises:
            ClientGone: `cancel` was called.
            GatewayError: the model server failed for longer than a text may wait, or the gateway was stopped.
        """
        while self._unfinished:
            event = self.events.get()
            if event is None:
                raise ClientGone("the client closed its connection, or the sending half of it")
            if isinstance(event, Failure):
                self._runner.cancel(self.sequences)
                raise event.error
            if event.choice in self._unfinished:
                piece = self._assemble(event)
                if piece.finish_reason:
                    self._unfinished.remove(event.choice)
                if piece.text or piece.finish_reason:
                    yield piece

    def _assemble(self, chunk: Chunk) -> Piece:
        assembler = self._assemblers[chunk.choice]
        text = assembler.feed(chunk.token_ids)
        if assembler.stopped:
            if chunk.finish_reason is None:
                self._runner.cancel([self.sequences[chunk.choice]])
            return Piece(chunk.choice, text, "stop")
        if chunk.finish_reason:
            text += assembler.flush()
        return Piece(chunk.choice, text, chunk.finish_reason)


class Engine:
    """Starts generations."""

    def __init__(self, models: Models, runner: Runner, *, max_prompt_tokens: int) -> None:
        self._models, self._runner, self._max_prompt_tokens = models, runner, max_prompt_tokens

    def begin(self, request: CompletionRequest) -> Generation:
        """Encode the prompt and queue the request.

        Raises:
            GatewayError: the model is not served, the prompt is too long, or the queue is full.
        """
        model = self._models.find(request.model)
        prompt_ids = model.tokenizer.encode(request.prompt)
        if len(prompt_ids) > self._max_prompt_tokens:
            raise InvalidRequest(
                f"prompt must be at most {self._max_prompt_tokens} tokens, got {len(prompt_ids)}", param="prompt"
            )
        generation = Generation(request, model, len(prompt_ids), self._runner)
        if request.max_tokens > 0:
            self._submit(generation, prompt_ids or [model.tokenizer.special.start])
        return generation

    def _submit(self, generation: Generation, prompt_ids: list[int]) -> None:
        request, model = generation.request, generation.model
        ids = np.asarray(prompt_ids, np.int32)
        state = np.zeros(model.card.state_size, np.float32)
        generation.sequences = [
            Sequence(
                model=model.ref,
                prompt_ids=ids,
                max_tokens=request.max_tokens,
                sampling=request.sampling,
                seed=request.seed,
                choice=choice,
                end_id=model.tokenizer.special.end,
                emit=generation.events.put,
                state=state,
            )
            for choice in range(request.num_choices)
        ]
        self._runner.submit(generation.sequences, model.shapes)
