"""A running completion: turns the events of its sequences into text deltas of its choices, and those into results.

The deltas of a backward model arrive from the end of the text: each is prepended to those so far.

Knows texts and log probabilities. Does not know how sequences are computed, or HTTP.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Many
from dataclasses import dataclass

from contract import signatures
from service.api.requests import CompletionRequest
from service.generation.checkpoint import Checkpoint, ResumePoint
from service.generation.choice import Choice, ConstrainedMatch, TextDelta
from service.generation.detokenize import TextAssembler
from service.generation.logprobs import Logprobs
from service.generation.prompts import NOTHING, EncodedPrompt
from service.generation.request import Request
from service.generation.stop_strings import Stops
from service.params import SamplingParams
from service.scheduling.automaton import Match
from service.scheduling.sequence import DecodeResult, FinishReason, PrefillResult, Scores, Sequence

# Returns the resume token of a checkpoint.
SealToken = Callable[[Checkpoint], str]


@dataclass(frozen=True)
class CompletionOutput:
    """A whole choice, or the part of it that was generated before a failure; see `TextDelta`."""

    text: str
    finish_reason: FinishReason | None
    logprobs: Logprobs | None
    resume_token: str | None = None


class CompletionBuilder:
    """The output builder of a completion: iterate over its deltas in order of arrival, or get its results.

    `sampling` are the body's parameters, as far as the model supports them; `matches` are what the choices of each
    prompt must match, from the first token on; `seal` returns resume tokens.
    """

    def __init__(
        self,
        body: CompletionRequest,
        request: Request,
        sampling: SamplingParams,
        matches: Many[ConstrainedMatch | None],
        seal: SealToken,
    ) -> None:
        self.request, self.body = request, body
        self._model, self._prompts, self._checkpoint = request.model, request.prompts, request.checkpoint
        seed = request.checkpoint.seed if body.seed is None and request.checkpoint else body.seed
        assert seed is not None, "a seed is drawn, unless it comes with a resume token"
        self.seed = seed
        self._sampling, self._matches, self._seal = sampling, matches, seal
        self._scores: dict[int, list[Scores]] = {}
        backward = request.model.backward
        stops = Stops([stop[::-1] for stop in body.stop] if backward else body.stop)
        self._choices = [
            self._new_choice(prompt_index, number, stops)
            for prompt_index in range(len(request.prompts))
            for number in range(body.best_of)
        ]

    def new_sequences(self) -> list[list[Sequence]]:
        """Return its sequences, grouped by prompt; a prompt that needs no computation has none."""
        body, groups = self.body, []
        # The best choices are those with the highest log probabilities.
        ranks_choices = body.best_of > body.n and body.logprobs is None
        for prompt_index, prompt in enumerate(self._prompts):
            count = body.best_of if body.max_tokens else int(self._is_prefill_only(prompt_index))
            group = [
                self.request.new_sequence(
                    index,
                    prompt,
                    signatures.SCORE if self._is_scored(prompt_index) else signatures.PREFILL,
                    max_tokens=body.max_tokens,
                    sampling=self._sampling,
                    match=self._new_match(prompt_index),
                    seed=self.seed,
                    random_stream=self._choices[index].random_stream,
                    num_top=0 if ranks_choices else body.logprobs,
                    returns_state=body.issues_resume_tokens,
                )
                for index in self._choice_indexes(prompt_index)[:count]
            ]
            if group:
                groups.append(group)
        return groups

    def __iter__(self) -> Iterator[TextDelta]:
        """Yield the deltas of every choice until all have finished; raise as `Request.events`."""
        for prompt_index in range(len(self._prompts)):
            if not self._is_scored(prompt_index) and not self._is_prefill_only(prompt_index):
                yield from self._leading_deltas(prompt_index)
        for event in self.request.events():
            if isinstance(event, PrefillResult):
                yield from self._process_prefill(event)
            elif isinstance(event, DecodeResult):
                delta = self._process_chunk(event)
                if not delta.is_empty:
                    yield delta

    @property
    def prepends(self) -> bool:
        """Whether the client prepends each delta of `client_deltas` to those so far."""
        return self._model.backward and self.body.stream_options.prepend

    def client_deltas(self) -> Iterator[TextDelta]:
        """Return the deltas that the client joins, as an iterator.

        A client that did not ask for `prepend` gets each choice of a backward model as one delta.
        """
        return self._whole_choices() if self._model.backward and not self.prepends else iter(self)

    def results(self) -> list[CompletionOutput]:
        """Wait for every choice and return the best `n` of each prompt, best first; raise as `Request.events`."""
        for delta in self:
            self._choices[delta.index].deltas.append(delta)
        best = [index for prompt_index in range(len(self._prompts)) for index in self._best(prompt_index)]
        return [self._join(self._choices[index].deltas) for index in best]

    def partial_outputs(self, *, with_resume_tokens: bool = True) -> list[tuple[int, CompletionOutput]]:
        """Return what was generated and not yet returned when the request failed: for each choice its index and output.

        Resume tokens are useless if the version is no longer served.
        """
        outputs = []
        for index, choice in enumerate(self._choices):
            deltas = choice.deltas
            if choice.finish_reason is None:
                text = "" if choice.is_started else self._start_choice(index)
                if not choice.keeps_checkpoint:
                    text = self._extend(text, choice.assembler.flush())
                logprobs = choice.assembler.take_logprobs(last=True)
                resume_token = self._resume_token(choice) if with_resume_tokens else None
                deltas = [*deltas, TextDelta(index, text, None, logprobs, resume_token)]
            if deltas:
                outputs.append((index, self._join(deltas)))
        return outputs

    def _new_match(self, prompt_index: int) -> Match | None:
        constrained = self._matches[prompt_index]
        return constrained.match.copy() if constrained else None

    def _new_choice(self, prompt_index: int, number: int, stops: Stops) -> Choice:
        """Return choice `number` of a prompt, with nothing generated yet."""
        checkpoint, sampling, prompt = self._checkpoint, self._sampling, self._prompts[prompt_index]
        constrained = self._matches[prompt_index]
        token_counts: Counter[int] | None = None
        if sampling.counts_tokens:
            ids, counts = checkpoint.token_counts if checkpoint else (NOTHING, NOTHING)
            token_counts = Counter(dict(zip(ids.tolist(), counts.tolist(), strict=True)))
            for token_id in prompt.seen_ids.tolist() if sampling.repetition_penalty != 1 else ():
                token_counts.setdefault(token_id, 0)
        return Choice(
            self._new_assembler(prompt, stops),
            self._model.tokenizer.special.end,
            ResumePoint(
                self.request.initial_state, prompt.input_ids, checkpoint.point.num_sampled if checkpoint else 0
            ),
            checkpoint.branch(number) if checkpoint else number,
            token_counts,
            constrained.copy() if constrained else None,
            keeps_checkpoint=self.body.issues_resume_tokens,
            may_continue_after_end=self.body.return_state,
        )

    def _new_assembler(self, prompt: EncodedPrompt, stops: Stops) -> TextAssembler:
        tokenizer, num_top, backward, held_back = self._model.tokenizer, self.body.logprobs, self._model.backward, ""
        detokenizer = tokenizer.detokenizer(prompt.text, backward=backward)
        if self._checkpoint and prompt.is_empty:
            detokenizer.restore(self._checkpoint.detokenizer)
            held_back = self._checkpoint.held_back
        offset = 0 if backward else len(self._leading_text(prompt))
        return TextAssembler(detokenizer, stops, num_top, offset, backward=backward, held_back=held_back)

    def _leading_text(self, prompt: EncodedPrompt) -> str:
        """Return the text that a prompt's choices start with (end with, for a backward model), in reading order.

        It is the prompt if `echo` is set, and the text that the checkpoint held back, which a prompt makes final. That
        goes before the prompt, or after it for a backward model.
        """
        echo, held_back, checkpoint = prompt.text if self.body.echo else "", "", self._checkpoint
        if checkpoint and not prompt.is_empty:
            detokenizer = self._model.tokenizer.detokenizer(backward=self._model.backward)
            detokenizer.restore(checkpoint.detokenizer)
            # The checkpoint's text is in the order of generation.
            held_back = self._in_reading_order(checkpoint.held_back + self._in_reading_order(detokenizer.flush()))
        return echo + held_back if self._model.backward else held_back + echo

    def _in_reading_order(self, text: str) -> str:
        return text[::-1] if self._model.backward else text

    def _extend(self, text: str, more: str) -> str:
        """Append what an assembler returned to a text, or prepend it for a backward model."""
        return more[::-1] + text if self._model.backward else text + more

    def _resume_token(self, choice: Choice) -> str | None:
        """Return a resume token for a choice's current point; None if it keeps no checkpoints."""
        if not choice.keeps_checkpoint:
            return None
        return self._seal(choice.save(self._model.ref, self._model.card.weights_sha256, self.seed))

    def _whole_choices(self) -> Iterator[TextDelta]:
        """Yield each choice as one delta, once it has finished."""
        for delta in self:
            deltas = self._choices[delta.index].deltas
            deltas.append(delta)
            if delta.finish_reason:
                whole = self._join(deltas)
                deltas.clear()
                yield TextDelta(delta.index, whole.text, whole.finish_reason, whole.logprobs, whole.resume_token)

    def _join(self, deltas: list[TextDelta]) -> CompletionOutput:
        """Join a choice's deltas, which are in order of arrival."""
        backward, offset = self._model.backward, 0
        logprobs = None if self.body.logprobs is None else Logprobs()
        in_order = deltas[::-1] if backward else deltas
        for delta in in_order:
            if logprobs is not None and delta.logprobs is not None:
                logprobs.extend(delta.logprobs, shift=offset if backward else 0)
            offset += len(delta.text)
        text, last = "".join([delta.text for delta in in_order]), deltas[-1]
        return CompletionOutput(text, last.finish_reason, logprobs, last.resume_token)

    def _best(self, prompt_index: int) -> list[int]:
        """Return the `n` choices of a prompt with the highest mean log probability; in order if `best_of` is `n`."""
        best_of, count = self.body.best_of, self.body.n
        indexes = list(range(prompt_index * best_of, (prompt_index + 1) * best_of))
        if best_of > count:
            indexes.sort(key=lambda index: self._choices[index].assembler.mean_logprob, reverse=True)
        return indexes[:count]

    def _is_scored(self, prompt_index: int) -> bool:
        """Return whether a prompt's tokens need log probabilities: requested, and a token follows another."""
        is_requested, prompt = self.body.echo and self.body.logprobs is not None, self._prompts[prompt_index]
        return is_requested and prompt.ids.size > 0 and len(prompt.input_ids) > 1

    def _is_prefill_only(self, prompt_index: int) -> bool:
        """Return whether a prompt needs prefill, for its log probabilities or its state, and no decode."""
        has_state = self.body.return_state and len(self._prompts[prompt_index].input_ids) > 1
        return (self._is_scored(prompt_index) or has_state) and self.body.max_tokens == 0

    def _choice_indexes(self, prompt_index: int) -> range:
        return range(prompt_index * self.body.best_of, (prompt_index + 1) * self.body.best_of)

    def _process_prefill(self, event: PrefillResult) -> Iterator[TextDelta]:
        prompt_index = event.index // self.body.best_of
        if event.scores is not None:
            self._scores.setdefault(prompt_index, []).append(event.scores)
        if event.state is not None:
            # One sequence prefills for all choices.
            unread_ids = self._prompts[prompt_index].input_ids[-1 - event.num_remaining_prompt_tokens :]
            for index in self._choice_indexes(prompt_index):
                choice = self._choices[index]
                choice.point = ResumePoint(event.state, unread_ids, choice.point.num_sampled)
        if event.last and (self._is_scored(prompt_index) or self._is_prefill_only(prompt_index)):
            yield from self._leading_deltas(prompt_index)

    def _leading_deltas(self, prompt_index: int) -> Iterator[TextDelta]:
        """Yield the first delta of each choice of a prompt: its leading text; the last one too if `max_tokens` is 0."""
        body, prompt = self.body, self._prompts[prompt_index]
        logprobs, leading_text = None, self._leading_text(prompt)
        if body.logprobs is not None:
            scores = self._scores.pop(prompt_index, [])
            logprobs = Logprobs()
            if body.echo:
                offset = 0 if self._model.backward else len(leading_text) - len(prompt.text)
                logprobs.extend(prompt.logprobs(scores, body.logprobs), offset)
        for index in self._choice_indexes(prompt_index):
            choice, text = self._choices[index], self._start_choice(index)
            reason: FinishReason | None = None if body.max_tokens else "length"
            if reason and not choice.may_continue_after_end:
                text = self._extend(text, choice.assembler.flush())
            if choice.assembler.stopped:
                reason = "stop"
                self.request.cancel_sequence(index)
            if reason or text or (logprobs and logprobs.tokens):
                choice.finish_reason = reason
                yield self._delta(index, text, logprobs)

    def _start_choice(self, index: int) -> str:
        """Mark a choice as open and return its leading text, in reading order."""
        choice, leading_text = self._choices[index], self._leading_text(self._prompts[index // self.body.best_of])
        choice.is_started = True
        return self._extend(leading_text, choice.assembler.begin())

    def _process_chunk(self, chunk: DecodeResult) -> TextDelta:
        choice = self._choices[chunk.index]
        self.request.report_tokens(chunk.index, len(chunk.token_ids))
        num_tokens_before = choice.assembler.num_tokens
        text = self._in_reading_order(choice.take(chunk))
        # Without those after a stop string.
        self.request.num_completion_tokens += choice.assembler.num_tokens - num_tokens_before
        if choice.assembler.stopped and chunk.finish_reason is None:
            self.request.cancel_sequence(chunk.index)
        logprobs = choice.assembler.take_logprobs(last=choice.finish_reason is not None)
        return self._delta(chunk.index, text, logprobs)

    def _delta(self, index: int, text: str, logprobs: Logprobs | None) -> TextDelta:
        """Return a delta of a choice, the last one if the choice has finished."""
        choice, body = self._choices[index], self.body
        is_finished = choice.finish_reason is not None
        if is_finished:
            self.request.finish(index, choice.finish_reason)
        is_due = body.return_state if is_finished else choice.is_due(body.stream_options.state_interval)
        return TextDelta(index, text, choice.finish_reason, logprobs, self._resume_token(choice) if is_due else None)
