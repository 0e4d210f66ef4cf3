"""A completion in the making: from the events of its sequences to pieces of its choices, and from those to results.

The pieces of a text that is written from its end arrive nearest to it first: each goes before those so far.

Knows texts and log probabilities. Does not know how sequences are computed, or HTTP.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from contract import signatures
from service.api.parameters import CompletionRequest
from service.backends.registry import ServedModel
from service.generation.checkpoint import Checkpoint, Point
from service.generation.choice import Choice, TextDelta
from service.generation.detokenize import ReversedDetokenizer, TextAssembler
from service.generation.job import Canceller, Job, Listener
from service.generation.logprobs import Logprobs
from service.generation.prompts import NOTHING, EncodedPrompt
from service.generation.stop_strings import Stops
from service.scheduling.sequence import Chunk, FinishReason, Read, Scores

# Makes a token of a text.
SealToken = Callable[[Checkpoint], str]


@dataclass(frozen=True)
class CompletionOutput:
    """A whole choice, or what there is of one that could not be ended; see `TextDelta`."""

    text: str
    finish_reason: FinishReason | None
    logprobs: Logprobs | None
    state: str | None = None


class Completion(Job):
    """One request in the making: iterate over it for its pieces, in order of arrival, or ask for its results."""

    def __init__(
        self,
        request: CompletionRequest,
        model: ServedModel,
        prompts: list[EncodedPrompt],
        runner: Canceller,
        listener: Listener,
        *,
        seal: SealToken,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        """Prepare.

        Args:
            request: What is wanted; with a seed.
            model: What makes it.
            prompts: Those of the request, encoded.
            runner: What the sequences are cancelled at.
            listener: Told how it goes.
            seal: Makes the tokens that choices are to have.
            checkpoint: The text that this one goes on with; None: none.
        """
        assert request.seed is not None, "a seed is drawn or comes with the state"
        num_prompt_tokens = sum(prompt.num_tokens for prompt in prompts)
        super().__init__(model.ref, num_prompt_tokens, runner, listener, request.timeout_s)
        self.request, self.model, self.prompts = request, model, prompts
        self.seed: int = request.seed
        self._seal, self._checkpoint = seal, checkpoint
        # A choice among several is made by the log probabilities of their tokens.
        chooses = request.best_of > request.num_choices and request.num_top is None
        self.options: dict[str, Any] = {
            "max_tokens": request.max_tokens,
            "sampling": request.sampling,
            "seed": request.seed,
            "num_top": 0 if chooses else request.num_top,
            "returns_state": request.returns_states,
        }
        if checkpoint:
            self.options |= {"position": checkpoint.point.position, "counts_before": checkpoint.counted}
        self._scores: dict[int, list[Scores]] = {}
        self._begun = False
        stops = Stops([stop[::-1] for stop in request.stops] if model.backward else request.stops)
        self._choices = [self._choice(prompt, number, stops) for prompt in prompts for number in range(request.best_of)]

    @property
    def beginning(self) -> np.ndarray:
        """The state, float32 (S,), that is to read the prompts."""
        return self._checkpoint.point.state if self._checkpoint else np.zeros(self.model.card.state_size, np.float32)

    @property
    def origin(self) -> bytes:
        """What tells that state from others: what is read from one is not what is read from another."""
        return self._checkpoint.origin if self._checkpoint else b""

    def stream_of(self, index: int) -> int:
        """Return which stream of the seed a choice's random numbers are."""
        return self._choices[index].stream

    def choices(self, place: int) -> range:
        """Return the indexes of the sequences that a prompt needs: none if nothing of it is to be computed."""
        first, best_of = place * self.request.best_of, self.request.best_of
        return range(first, first + (best_of if self.request.max_tokens else int(self._is_only_read(place))))

    def prefill_signature(self, place: int) -> str:
        """Return the signature by which a prompt is read."""
        return signatures.SCORE if self._is_scored(place) else signatures.PREFILL

    @property
    def num_completion_tokens(self) -> int:  # type: ignore[override]
        """Tokens of all choices made so far, those behind a stop string not counted."""
        return sum(choice.assembler.num_tokens for choice in self._choices)

    @property
    def num_cached_tokens(self) -> int:
        """Tokens of all prompts that were not read, as their state was known."""
        # What a state had not read is in no prompt.
        num_carried = len(self._checkpoint.point.unread) if self._checkpoint else 0
        return sum(max(0, sequence.num_cached_tokens - num_carried) for sequence in self.sequences.values())

    @property
    def fingerprint(self) -> str:
        """What the bytes so far go by."""
        return self.model.fingerprint_if(self.is_reproducible)

    @property
    def reasons(self) -> list[str]:  # type: ignore[override]
        """Finish reasons of the choices that have ended."""
        return [choice.finish_reason for choice in self._choices if choice.finish_reason]

    def __iter__(self) -> Iterator[TextDelta]:
        """Yield every choice's pieces until all have ended.

        Raises:
            GatewayError: see `Job.events`.
        """
        for place in range(len(self.prompts)):
            if not self._is_scored(place) and not self._is_only_read(place):
                yield from self._open(place)
        for event in self.events():
            if isinstance(event, Read):
                yield from self._take_read(event)
            elif isinstance(event, Chunk):
                piece = self._assemble(event)
                if piece.text or piece.finish_reason or piece.state or (piece.logprobs and piece.logprobs.tokens):
                    yield piece

    @property
    def prepends(self) -> bool:
        """Whether `stream` gives pieces of which each goes before those so far."""
        return self.model.backward and self.request.prepend

    def stream(self) -> Iterator[TextDelta]:
        """Iterate over the pieces as the client puts them together.

        A client that did not say that it puts pieces before others gets a text that is written from its end as one.

        Raises:
            GatewayError: see `Job.events`.
        """
        return self._whole_texts() if self.model.backward and not self.prepends else iter(self)

    def results(self) -> list[CompletionOutput]:
        """Wait for every choice and return those asked for: of each prompt the best ones, best first.

        Raises:
            GatewayError: see `Job.events`.
        """
        for piece in self:
            self._choices[piece.index].pieces.append(piece)
        best = [index for place in range(len(self.prompts)) for index in self._best(place)]
        return [self._join(self._choices[index].pieces) for index in best]

    def rest(self, *, keep_states: bool = True) -> list[tuple[int, CompletionOutput]]:
        """Return what was not handed out of each choice, of a request that could not be finished, with its index.

        Args:
            keep_states: Whether it can be gone on with; not if the version is gone.
        """
        rest = []
        for index, choice in enumerate(self._choices):
            pieces = choice.pieces
            if choice.finish_reason is None:
                text = "" if choice.is_open else self._begin(index)
                if not choice.is_kept:
                    text = self._behind(text, choice.assembler.flush())
                logprobs = choice.assembler.take_logprobs(last=True)
                pieces = [*pieces, TextDelta(index, text, None, logprobs, self._state(choice) if keep_states else None)]
            if pieces:
                rest.append((index, self._join(pieces)))
        return rest

    def _choice(self, prompt: EncodedPrompt, number: int, stops: Stops) -> Choice:
        """Make ready what a choice of a prompt becomes."""
        request, checkpoint = self.request, self._checkpoint
        counted: Counter[int] | None = None
        if request.sampling.counts_tokens:
            ids, counts = checkpoint.counted if checkpoint else (NOTHING, NOTHING)
            counted = Counter(dict(zip(ids.tolist(), counts.tolist(), strict=True)))
            for token_id in prompt.seen_ids.tolist() if request.sampling.repetition_penalty != 1 else ():
                counted.setdefault(token_id, 0)
        return Choice(
            self._assembler(prompt, stops),
            self.model.tokenizer.special.end,
            Point(self.beginning, prompt.read_ids, checkpoint.point.position if checkpoint else 0),
            checkpoint.branch(number) if checkpoint else number,
            counted,
            is_kept=request.returns_states,
            is_left_open=request.return_state,
        )

    def _assembler(self, prompt: EncodedPrompt, stops: Stops) -> TextAssembler:
        tokenizer, num_top, backward, held = self.model.tokenizer, self.request.num_top, self.model.backward, ""
        detokenizer = tokenizer.backward_detokenizer(prompt.text) if backward else tokenizer.detokenizer(prompt.text)
        if self._checkpoint and prompt.is_empty:
            detokenizer.restore(self._checkpoint.detokenizer)
            held = self._checkpoint.held
        if backward:
            return TextAssembler(ReversedDetokenizer(detokenizer), stops, num_top, backward=True, held=held)
        return TextAssembler(detokenizer, stops, num_top, len(self._lead(prompt)), held=held)

    def _lead(self, prompt: EncodedPrompt) -> str:
        """Return the text that a prompt's choices begin with, in order of reading: the prompt, if it is wanted.

        And before it what the text that is gone on with still held, which a prompt puts an end to.
        """
        echo, held, checkpoint = prompt.text if self.request.echo else "", "", self._checkpoint
        if checkpoint and not prompt.is_empty:
            tokenizer, backward = self.model.tokenizer, self.model.backward
            detokenizer = tokenizer.backward_detokenizer() if backward else tokenizer.detokenizer()
            detokenizer.restore(checkpoint.detokenizer)
            held = detokenizer.flush() + checkpoint.held[::-1] if backward else checkpoint.held + detokenizer.flush()
        return echo + held if self.model.backward else held + echo

    def _in_reading_order(self, text: str) -> str:
        return text[::-1] if self.model.backward else text

    def _behind(self, text: str, more: str) -> str:
        """Put what an assembler returned where a text grows: behind it, or before one that is written from its end."""
        return more[::-1] + text if self.model.backward else text + more

    def _state(self, choice: Choice) -> str | None:
        """Return a token of where a choice stands, if it is wanted."""
        if not choice.is_kept:
            return None
        return self._seal(choice.save(self.model.ref, self.model.card.weights_sha256, self.seed))

    def _whole_texts(self) -> Iterator[TextDelta]:
        """Yield each choice as one piece, once it has ended."""
        for piece in self:
            pieces = self._choices[piece.index].pieces
            pieces.append(piece)
            if piece.finish_reason:
                whole = self._join(pieces)
                pieces.clear()
                yield TextDelta(piece.index, whole.text, whole.finish_reason, whole.logprobs, whole.state)

    def _join(self, pieces: list[TextDelta]) -> CompletionOutput:
        """Put a choice's pieces together, which are in order of arrival."""
        backward, place = self.model.backward, 0
        logprobs = None if self.request.num_top is None else Logprobs()
        in_order = pieces[::-1] if backward else pieces
        for piece in in_order:
            if logprobs is not None and piece.logprobs is not None:
                logprobs.extend(piece.logprobs, shift=place if backward else 0)
            place += len(piece.text)
        text, last = "".join([piece.text for piece in in_order]), pieces[-1]
        return CompletionOutput(text, last.finish_reason, logprobs, last.state)

    def _best(self, place: int) -> list[int]:
        """Choose those of a prompt's choices with the highest mean log probability, if not all of them are wanted."""
        best_of, count = self.request.best_of, self.request.num_choices
        indexes = list(range(place * best_of, (place + 1) * best_of))
        if best_of > count:
            indexes.sort(key=lambda index: self._choices[index].assembler.mean_logprob, reverse=True)
        return indexes[:count]

    def _is_scored(self, place: int) -> bool:
        """Whether the tokens of a prompt are told with their scores, and there are any that follow another."""
        scores, prompt = self.request.echo and self.request.num_top is not None, self.prompts[place]
        return scores and prompt.ids.size > 0 and len(prompt.read_ids) > 1

    def _is_only_read(self, place: int) -> bool:
        """Whether nothing is drawn, but something is to be known of a prompt that takes reading it."""
        wanted = self._is_scored(place) or (self.request.return_state and len(self.prompts[place].read_ids) > 1)
        return wanted and self.request.max_tokens == 0

    def _indexes(self, place: int) -> range:
        """Return the indexes of a prompt's choices."""
        return range(place * self.request.best_of, (place + 1) * self.request.best_of)

    def _take_read(self, event: Read) -> Iterator[TextDelta]:
        place = event.index // self.request.best_of
        if event.scores is not None:
            self._scores.setdefault(place, []).append(event.scores)
        if event.state is not None:
            # One sequence reads for all choices.
            unread = self.prompts[place].read_ids[-1 - event.num_remaining_prompt_tokens :]
            for index in self._indexes(place):
                choice = self._choices[index]
                choice.point = Point(event.state, unread, choice.point.position)
        if event.last and (self._is_scored(place) or self._is_only_read(place)):
            yield from self._open(place)

    def _open(self, place: int) -> Iterator[TextDelta]:
        """Yield what a prompt's choices begin with; the end too, if it is all."""
        request, prompt = self.request, self.prompts[place]
        logprobs, lead = None, self._lead(prompt)
        if request.num_top is not None:
            scores = self._scores.pop(place, [])
            logprobs = Logprobs()
            if request.echo:
                before = 0 if self.model.backward else len(lead) - len(prompt.text)
                logprobs.extend(prompt.logprobs(scores, request.num_top), before)
        for index in self._indexes(place):
            choice, text = self._choices[index], self._begin(index)
            reason: FinishReason | None = None if request.max_tokens else "length"
            if reason and not choice.is_left_open:
                text = self._behind(text, choice.assembler.flush())
            if choice.assembler.stopped:
                reason = "stop"
                self._runner.cancel([self.sequences[index]] if index in self.sequences else [])
            if reason or text or (logprobs and logprobs.tokens):
                choice.finish_reason = reason
                yield self._piece(index, text, logprobs)

    def _begin(self, index: int) -> str:
        """Return the text that a choice begins with, in order of reading, once."""
        choice, lead = self._choices[index], self._lead(self.prompts[index // self.request.best_of])
        choice.is_open = True
        return self._behind(lead, choice.assembler.begin())

    def _assemble(self, chunk: Chunk) -> TextDelta:
        choice = self._choices[chunk.index]
        self._time(choice, len(chunk.token_ids))
        text = self._in_reading_order(choice.take(chunk))
        if choice.assembler.stopped and chunk.finish_reason is None:
            self._runner.cancel([self.sequences[chunk.index]])
        logprobs = choice.assembler.take_logprobs(last=choice.finish_reason is not None)
        return self._piece(chunk.index, text, logprobs)

    def _piece(self, index: int, text: str, logprobs: Logprobs | None) -> TextDelta:
        """Make a piece of a choice, the last one if the choice has ended."""
        choice, request = self._choices[index], self.request
        ended = choice.finish_reason is not None
        if ended:
            self.finish(index)
        due = request.return_state if ended else choice.is_due(request.state_interval)
        return TextDelta(index, text, choice.finish_reason, logprobs, self._state(choice) if due else None)

    def _time(self, choice: Choice, count: int) -> None:
        now = time.monotonic()
        if not self._begun:
            self._begun = True
            self._listener.first_token(self.model.ref, now - self._started_at)
        if choice.last_at is not None and count:
            self._listener.token_gap(self.model.ref, now - choice.last_at, count)
        choice.last_at = now
