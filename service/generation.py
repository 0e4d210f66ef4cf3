"""A completion in the making: from the events of its sequences to pieces of text, and from those to whole choices.

The pieces of a text that is written from its end arrive nearest to it first: each goes before those so far.

Knows texts and log probabilities. Does not know how sequences are computed, or HTTP.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from contract import signatures
from service.catalog import LiveModel
from service.job import Canceller, Job, Listener
from service.logprobs import Logprobs
from service.prompts import EncodedPrompt
from service.schema import CompletionRequest
from service.sequence import Chunk, FinishReason, Read, Scores
from service.stops import Stops
from service.text import Mirrored, TextAssembler


@dataclass(frozen=True)
class Piece:
    """Text of one choice.

    Attributes:
        index: Of the choice, among all that are made.
        finish_reason: "stop" or "length" with the choice's last piece, else None.
        logprobs: Of the tokens whose text begins in this piece; None if they were not asked for. Their places are
            within the choice's text, or within this piece if it goes before those so far.
    """

    index: int
    text: str
    finish_reason: FinishReason | None
    logprobs: Logprobs | None = None


@dataclass(frozen=True)
class Result:
    """A whole choice."""

    text: str
    finish_reason: FinishReason | None
    logprobs: Logprobs | None


@dataclass
class _Choice:
    assembler: TextAssembler
    last_at: float | None = None
    finish_reason: FinishReason | None = None


class Generation(Job):
    """One request in the making: iterate over it for its pieces, in order of arrival, or ask for its results."""

    def __init__(
        self,
        request: CompletionRequest,
        model: LiveModel,
        prompts: list[EncodedPrompt],
        runner: Canceller,
        listener: Listener,
    ) -> None:
        num_prompt_tokens = sum(prompt.num_tokens for prompt in prompts)
        super().__init__(model.ref, num_prompt_tokens, runner, listener, request.timeout_s)
        self.request, self.model, self.prompts = request, model, prompts
        # A choice among several is made by the log probabilities of their tokens.
        chooses = request.best_of > request.num_choices and request.num_top is None
        self.options: dict[str, Any] = {
            "max_tokens": request.max_tokens,
            "sampling": request.sampling,
            "seed": request.seed,
            "num_top": 0 if chooses else request.num_top,
        }
        self._scores: dict[int, list[Scores]] = {}
        self._begun = False
        stops = Stops([stop[::-1] for stop in request.stops] if model.backward else request.stops)
        self._choices = [_Choice(self._assembler(prompt, stops)) for prompt in prompts for _ in range(request.best_of)]

    def choices(self, place: int) -> range:
        """Return the indexes of the sequences that a prompt needs: none if nothing of it is to be computed."""
        first, best_of = place * self.request.best_of, self.request.best_of
        return range(first, first + (best_of if self.request.max_tokens else int(self._is_scored(place))))

    def reads_by(self, place: int) -> str:
        """Return the signature by which a prompt is read."""
        return signatures.SCORE if self._is_scored(place) else signatures.PREFILL

    @property
    def num_completion_tokens(self) -> int:  # type: ignore[override]
        """Tokens of all choices made so far, those behind a stop string not counted."""
        return sum(choice.assembler.num_tokens for choice in self._choices)

    @property
    def num_cached_tokens(self) -> int:
        """Tokens of all prompts that were not read, as their state was known."""
        return sum(sequence.num_recalled for sequence in self.sequences.values())

    @property
    def reasons(self) -> list[str]:  # type: ignore[override]
        """Finish reasons of the choices that have ended."""
        return [choice.finish_reason for choice in self._choices if choice.finish_reason]

    def __iter__(self) -> Iterator[Piece]:
        """Yield every choice's pieces until all have ended.

        Raises:
            GatewayError: see `Job.events`.
        """
        for place in range(len(self.prompts)):
            if not self._is_scored(place):
                yield from self._open(place)
        for event in self.events():
            if isinstance(event, Read):
                yield from self._take_scores(event)
            elif isinstance(event, Chunk):
                piece = self._assemble(event)
                if piece.text or piece.finish_reason or (piece.logprobs and piece.logprobs.tokens):
                    yield piece

    @property
    def prepends(self) -> bool:
        """Whether `stream` gives pieces of which each goes before those so far."""
        return self.model.backward and self.request.prepend

    def stream(self) -> Iterator[Piece]:
        """Iterate over the pieces as the client puts them together.

        A client that did not say that it puts pieces before others gets a text that is written from its end as one.

        Raises:
            GatewayError: see `Job.events`.
        """
        return self._whole_texts() if self.model.backward and not self.prepends else iter(self)

    def results(self) -> list[Result]:
        """Wait for every choice and return those asked for: of each prompt the best ones, best first.

        Raises:
            GatewayError: see `Job.events`.
        """
        pieces: list[list[Piece]] = [[] for _ in self._choices]
        for piece in self:
            pieces[piece.index].append(piece)
        best = [index for place in range(len(self.prompts)) for index in self._best(place)]
        return [self._join(pieces[index]) for index in best]

    def _assembler(self, prompt: EncodedPrompt, stops: Stops) -> TextAssembler:
        tokenizer, num_top = self.model.tokenizer, self.request.num_top
        if self.model.backward:
            return TextAssembler(Mirrored(tokenizer.backward_detokenizer(prompt.text)), stops, num_top, backward=True)
        offset = len(prompt.text) if self.request.echo else 0
        return TextAssembler(tokenizer.detokenizer(prompt.text), stops, num_top, offset)

    def _whole_texts(self) -> Iterator[Piece]:
        """Yield each choice as one piece, once it has ended."""
        pieces: list[list[Piece]] = [[] for _ in self._choices]
        for piece in self:
            pieces[piece.index].append(piece)
            if piece.finish_reason:
                whole = self._join(pieces[piece.index])
                yield Piece(piece.index, whole.text, whole.finish_reason, whole.logprobs)

    def _join(self, pieces: list[Piece]) -> Result:
        """Put a choice's pieces together, which are in order of arrival."""
        backward, place = self.model.backward, 0
        logprobs = None if self.request.num_top is None else Logprobs()
        in_order = pieces[::-1] if backward else pieces
        for piece in in_order:
            if logprobs is not None and piece.logprobs is not None:
                logprobs.extend(piece.logprobs, shift=place if backward else 0)
            place += len(piece.text)
        return Result("".join([piece.text for piece in in_order]), pieces[-1].finish_reason, logprobs)

    def _best(self, place: int) -> list[int]:
        """Choose those of a prompt's choices with the highest mean log probability, if not all of them are wanted."""
        best_of, count = self.request.best_of, self.request.num_choices
        indexes = list(range(place * best_of, (place + 1) * best_of))
        if best_of > count:
            indexes.sort(key=lambda index: self._choices[index].assembler.mean_logprob, reverse=True)
        return indexes[:count]

    def _is_scored(self, place: int) -> bool:
        """Whether the tokens of a prompt are told with their scores, and there are any that follow another."""
        scores = self.request.echo and self.request.num_top is not None
        return scores and len(self.prompts[place].ids) > 1

    def _take_scores(self, event: Read) -> Iterator[Piece]:
        place = event.index // self.request.best_of
        if event.scores is not None:
            self._scores.setdefault(place, []).append(event.scores)
        if event.last:
            yield from self._open(place)

    def _open(self, place: int) -> Iterator[Piece]:
        """Yield what a prompt's choices begin with: the prompt, if it is wanted; the end too, if it is all."""
        request, prompt = self.request, self.prompts[place]
        logprobs, text = None, prompt.text if request.echo else ""
        if request.num_top is not None:
            scores = self._scores.pop(place, [])
            logprobs = prompt.logprobs(scores, request.num_top) if request.echo else Logprobs()
        reason: FinishReason | None = None if request.max_tokens else "length"
        for index in range(place * request.best_of, (place + 1) * request.best_of):
            if reason:
                self._choices[index].finish_reason = reason
                self.finish(index)
            if reason or text or (logprobs and logprobs.tokens):
                yield Piece(index, text, reason, logprobs)

    def _assemble(self, chunk: Chunk) -> Piece:
        choice = self._choices[chunk.index]
        self._time(choice, len(chunk.token_ids))
        assembler, reason = choice.assembler, chunk.finish_reason
        text = assembler.feed(chunk.token_ids, chunk.scores)
        if reason and not assembler.stopped:
            text += assembler.flush()
        if self.model.backward:
            text = text[::-1]
        if assembler.stopped:
            if reason is None:
                self._runner.cancel([self.sequences[chunk.index]])
            reason = "stop"
        if reason:
            choice.finish_reason = reason
            self.finish(chunk.index)
        return Piece(chunk.index, text, reason, assembler.take_logprobs(last=bool(reason)))

    def _time(self, choice: _Choice, count: int) -> None:
        now = time.monotonic()
        if not self._begun:
            self._begun = True
            self._listener.first_token(self.model.ref, now - self._started_at)
        if choice.last_at is not None and count:
            self._listener.token_gap(self.model.ref, now - choice.last_at, count)
        choice.last_at = now
