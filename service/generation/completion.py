"""A running completion: turns the events of its sequences into text deltas of its choices, and those into results.

The deltas of a backward model arrive from the end of the text: each is prepended to those so far.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Many
from itertools import groupby
from operator import attrgetter, itemgetter

from contract import signatures
from service.api.requests import CompletionRequest
from service.generation.candidate_filter import CandidateFilter, IsCopy
from service.generation.checkpoint import Checkpoint, ResumePoint
from service.generation.choice import Choice, ConstrainedMatch, TextDelta
from service.generation.detokenize import TextAssembler
from service.generation.feeder import Feeder
from service.generation.logprobs import Logprobs
from service.generation.prompts import NOTHING, EncodedPrompt
from service.generation.request import Request
from service.generation.stop_strings import Stops
from service.params import SamplingParams
from service.scheduling.sequence import DecodeResult, FinishReason, PrefillResult, Scores, Sequence

# Returns the resume token of a checkpoint.
SealToken = Callable[[Checkpoint], str]


class CompletionBuilder:
    """The output builder of a completion: iterate over its deltas in order of arrival, or get its results.

    Choices are submitted as earlier ones finish. If duplicates or copies are rejected, each choice is one delta, once
    it is accepted, and others are generated in place of the rejected ones.
    """

    def __init__(
        self,
        body: CompletionRequest,
        request: Request,
        sampling: SamplingParams,
        seal: SealToken,
        *,
        max_unfinished: int,
        ended: Many[int] = (),
        is_copy: IsCopy | None = None,
        charge: Callable[[int], object] = lambda _: None,
    ) -> None:
        """Prepare the choices.

        Args:
            body: The request body.
            request: The running request.
            sampling: The body's parameters, as far as the model supports them.
            seal: Returns resume tokens.
            max_unfinished: Maximum number of unfinished sequences.
            ended: Prompts whose choices resume a match that cannot be longer: nothing is generated.
            is_copy: Rejects copies of training text; None: they are accepted.
            charge: Charges the tokens of a choice in place of a rejected one; may raise `RateLimited`.
        """
        self.request, self.body = request, body
        self._model, self._prompts, self._checkpoint = request.model, request.prompts, request.checkpoint
        seed = request.checkpoint.seed if body.seed is None and request.checkpoint else body.seed
        assert seed is not None, "a seed is generated unless it comes with a resume token"
        self.seed = seed
        self._sampling, self._seal, self._charge = sampling, seal, charge
        self._matches: Many[ConstrainedMatch | None] = [None] * len(request.prompts)
        self._scores: dict[int, list[Scores]] = {}
        # vLLM's `prompt_logprobs` by prompt, as JSON, if they are requested.
        self._prompt_logprobs: dict[int, bytes] = {}
        backward = request.model.backward
        self._stops = Stops([stop[::-1] for stop in body.stop] if backward else body.stop)
        # By index. The first sequence of each group prefills the prompt that its choices share.
        self._choices: dict[int, Choice] = {}
        self._groups: dict[int, list[int]] = {}
        self._ended = ended
        # At most one sequence of a prompt is computed if nothing is generated.
        computed = [
            (prompt_index, number)
            for prompt_index in range(len(request.prompts))
            for number in range(body.best_of if self._is_generated(prompt_index) else 1)
            if self._is_generated(prompt_index) or self._is_prefill_only(prompt_index)
        ]
        self._feeder: Feeder[tuple[int, int]] = Feeder(
            request,
            computed,
            itemgetter(0),
            max_tokens=body.max_tokens,
            max_unfinished=max_unfinished,
        )
        self._filters = (
            [CandidateFilter(body.n, body.unique, is_copy) for _ in request.prompts]
            if body.unique or is_copy is not None
            else []
        )
        # Accepted choices that were not returned yet.
        self._accepted: list[TextDelta] = []

    def admit(self) -> None:
        """Admit the first choices; raise as `Feeder.admit_first`."""
        self._feeder.admit_first()

    def submit(self, matches: Many[ConstrainedMatch | None] | None = None) -> None:
        """Submit the admitted choices; `matches` is what those of each prompt must match, from the first token on."""
        self._matches = matches or self._matches
        for prompt_index in range(len(self._prompts)):
            if not self._is_generated(prompt_index) and not self._is_prefill_only(prompt_index):
                self._new_group(prompt_index, range(self.body.best_of))
        self._feeder.submit(self._create)

    @property
    def is_finished(self) -> bool:
        """Whether all choices have finished, those included that were not submitted at first."""
        return self._feeder.is_finished

    @property
    def num_rejected(self) -> int | None:
        """Number of rejected choices; None if none can be."""
        return sum(each.num_rejected for each in self._filters) if self._filters else None

    def __iter__(self) -> Iterator[TextDelta]:
        """Yield the deltas of every choice until all have finished; raise as `Request.events`."""
        return self._accepted_choices() if self._filters else self._deltas()

    def _deltas(self) -> Iterator[TextDelta]:
        """Yield the deltas of all sequences, rejected ones included."""
        for group in list(self._groups.values()):
            yield from self._first_deltas(group)
        for event in self._feeder.events(self._create):
            if isinstance(event, PrefillResult):
                yield from self._process_prefill(event)
            elif isinstance(event, DecodeResult):
                delta = self._process_chunk(event)
                if not delta.is_empty:
                    yield delta
            elif isinstance(event, list):
                for leader, *_ in event:
                    yield from self._first_deltas(self._groups[leader.index])

    def _create(self, choices: Many[tuple[int, int]]) -> list[list[Sequence]]:
        """Create choices, given by prompt and number, and return their sequences by prompt."""
        groups = []
        for prompt_index, of_prompt in groupby(choices, key=itemgetter(0)):
            numbers = [number for _, number in of_prompt]
            is_generated = self._is_generated(prompt_index)
            indexes = self._new_group(prompt_index, numbers if is_generated else range(self.body.best_of))
            # If nothing is generated, one sequence prefills for all choices.
            groups.append([self._new_sequence(index) for index in indexes[: len(numbers)]])
        return groups

    def _new_group(self, prompt_index: int, numbers: Many[int]) -> list[int]:
        """Create choices of one prompt, which share its prefill, and return their indexes."""
        indexes = [self._index_of(prompt_index, number) for number in numbers]
        for index, number in zip(indexes, numbers, strict=True):
            self._choices[index] = self._new_choice(prompt_index, number)
        self._groups[indexes[0]] = indexes
        return indexes

    def _new_sequence(self, index: int) -> Sequence:
        body, choice = self.body, self._choices[index]
        constrained = self._matches[choice.prompt_index]
        # The best choices are those with the highest log probabilities.
        ranks_choices = body.best_of > body.n and body.logprobs is None
        return self.request.new_sequence(
            index,
            self._prompts[choice.prompt_index],
            signatures.SCORE if self._is_scored(choice.prompt_index) else signatures.PREFILL,
            max_tokens=body.max_tokens,
            sampling=self._sampling,
            match=constrained.match.copy() if constrained else None,
            seed=self.seed,
            random_stream=choice.random_stream,
            num_top=0 if ranks_choices else body.logprobs,
            returns_state=body.issues_resume_tokens,
        )

    def _accepted_choices(self) -> Iterator[TextDelta]:
        """Yield each accepted choice as one delta, numbered in the order of acceptance within its prompt."""
        for delta in self._deltas():
            choice = self._choices[delta.index]
            choice.deltas.append(delta)
            if delta.finish_reason is None:
                continue
            prompt_index = choice.prompt_index
            candidates = self._filters[prompt_index]
            for number, rank in candidates.decide(choice.number, *self._whole_text(choice)):
                candidate = self._choices.pop(self._index_of(prompt_index, number))
                if rank is None:
                    self._replace(prompt_index)
                else:
                    yield self._join(prompt_index * self.body.n + rank, candidate.deltas)

    def _replace(self, prompt_index: int) -> None:
        """Generate another candidate in place of a rejected one, unless there were too many or it would be the same."""
        number = None if self._sampling.is_greedy else self._filters[prompt_index].next_candidate()
        if number is not None:
            self._charge(self.body.max_tokens)
            self._feeder.waiting.append((prompt_index, number))

    def _whole_text(self, choice: Choice) -> tuple[Many[int], str]:
        """Return the tokens of a prompt and its finished choice, in the order of generation, and their text."""
        prompt = self._prompts[choice.prompt_index]
        # Without the checkpoint's unread tokens: they are not part of this text.
        ids = prompt.input_ids[len(prompt.after) :] if prompt.ids.size else NOTHING
        text = self._join(0, choice.deltas).text
        if not self.body.echo:
            text = text + prompt.text if self._model.backward else prompt.text + text
        return [*ids.tolist(), *(choice.token_ids or ())], text

    def _index_of(self, prompt_index: int, number: int) -> int:
        """Return the index of a choice, or of a candidate in place of a rejected one."""
        if number < self.body.best_of:
            return prompt_index * self.body.best_of + number
        return number * len(self._prompts) + prompt_index

    @property
    def prepends(self) -> bool:
        """Whether the client prepends each delta of `client_deltas` to those so far."""
        return self._model.backward and self.body.stream_options.prepend and not self._filters

    def client_deltas(self) -> Iterator[TextDelta]:
        """Return the deltas that the client joins, as an iterator.

        A client that did not ask for `prepend` gets each choice of a backward model as one delta.
        """
        is_joined = self._model.backward and not self.prepends and not self._filters
        return self._whole_choices() if is_joined else iter(self)

    def results(self) -> list[TextDelta]:
        """Wait for every choice and return the best `n` of each prompt, each joined; raise as `Request.events`.

        They are in the response's order: by prompt, the best first. `index // n` of each is its prompt, also if a
        prompt has fewer choices than `n`.
        """
        if self._filters:
            for delta in self:
                self._accepted.append(delta)
            return sorted(self._accepted, key=attrgetter("index"))
        for delta in self:
            self._choices[delta.index].deltas.append(delta)
        best = [index for prompt_index in range(len(self._prompts)) for index in self._best(prompt_index)]
        return [self._join(index, self._choices[number].deltas) for index, number in enumerate(best)]

    def prompt_logprobs(self, index: int) -> bytes | None:
        """Return vLLM's `prompt_logprobs` of the prompt of a result, as JSON; None if they are not requested."""
        return self._prompt_logprobs.get(index // self.body.n)

    def partial_outputs(self, *, with_resume_tokens: bool = True) -> list[TextDelta]:
        """Return what was generated and not yet returned when the request failed, joined for each choice.

        Resume tokens are useless if the version is no longer served.
        """
        if self._filters:
            return self._accepted
        outputs = []
        for index, choice in sorted(self._choices.items()):
            deltas = choice.deltas
            if choice.finish_reason is None:
                text = "" if choice.is_started else self._start_choice(index)
                if not choice.keeps_checkpoint:
                    text = self._extend(text, choice.assembler.flush())
                logprobs = choice.assembler.take_logprobs(last=True)
                resume_token = self._resume_token(choice) if with_resume_tokens else None
                deltas = [*deltas, TextDelta(index, text, None, logprobs, resume_token)]
            if deltas:
                outputs.append(self._join(index, deltas))
        return outputs

    def _new_choice(self, prompt_index: int, number: int) -> Choice:
        """Return choice `number` of a prompt, with nothing generated yet."""
        checkpoint, sampling, prompt = self._checkpoint, self._sampling, self._prompts[prompt_index]
        constrained = self._matches[prompt_index]
        token_counts: Counter[int] | None = None
        # Only for a resume token: the scheduler counts what penalties need.
        if sampling.counts_tokens and self.body.issues_resume_tokens:
            ids, counts = checkpoint.token_counts if checkpoint else (NOTHING, NOTHING)
            token_counts = Counter(dict(zip(ids.tolist(), counts.tolist(), strict=True)))
            for token_id in prompt.seen_ids.tolist() if sampling.repetition_penalty != 1 else ():
                token_counts.setdefault(token_id, 0)
        return Choice(
            prompt_index,
            number,
            self._new_assembler(prompt),
            self._model.tokenizer.special.end,
            ResumePoint(
                self.request.initial_state, prompt.input_ids, checkpoint.point.num_sampled if checkpoint else 0
            ),
            checkpoint.branch(number) if checkpoint else number,
            token_counts,
            constrained.copy() if constrained else None,
            keeps_checkpoint=self.body.issues_resume_tokens,
            may_continue_after_end=self.body.return_state,
            num_left=self.body.max_tokens,
            token_ids=[] if self._filters else None,
        )

    def _new_assembler(self, prompt: EncodedPrompt) -> TextAssembler:
        tokenizer, num_top, backward, held_back = self._model.tokenizer, self.body.logprobs, self._model.backward, ""
        detokenizer = tokenizer.detokenizer(prompt.text, backward=backward)
        if self._checkpoint and prompt.is_empty:
            detokenizer.restore(self._checkpoint.detokenizer)
            held_back = self._checkpoint.held_back
        offset = 0 if backward else len(self._leading_text(prompt))
        return TextAssembler(detokenizer, self._stops, num_top, offset, backward=backward, held_back=held_back)

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
                whole = self._join(delta.index, deltas)
                deltas.clear()
                yield whole

    def _join(self, index: int, deltas: list[TextDelta]) -> TextDelta:
        """Join a choice's deltas, which are in order of arrival, to one with this index."""
        backward, offset = self._model.backward, 0
        logprobs = None if self.body.logprobs is None else Logprobs()
        in_order = deltas[::-1] if backward else deltas
        for delta in in_order:
            if logprobs is not None and delta.logprobs is not None:
                logprobs.extend(delta.logprobs, shift=offset if backward else 0)
            offset += len(delta.text)
        text, last = "".join([delta.text for delta in in_order]), deltas[-1]
        return TextDelta(index, text, last.finish_reason, logprobs, last.resume_token)

    def _best(self, prompt_index: int) -> list[int]:
        """Return the `n` choices of a prompt with the highest mean log probability; in order if `best_of` is `n`."""
        best_of, count = self.body.best_of, self.body.n
        indexes = list(range(prompt_index * best_of, (prompt_index + 1) * best_of))
        if best_of > count:
            indexes.sort(key=lambda index: self._choices[index].assembler.mean_logprob, reverse=True)
        return indexes[:count]

    def _is_scored(self, prompt_index: int) -> bool:
        """Return whether a prompt's tokens need log probabilities: requested, and a token follows another."""
        body, prompt = self.body, self._prompts[prompt_index]
        is_requested = (body.echo and body.logprobs is not None) or body.prompt_logprobs is not None
        return is_requested and prompt.ids.size > 0 and len(prompt.input_ids) > 1

    def _is_generated(self, prompt_index: int) -> bool:
        """Return whether a prompt's choices have tokens to generate."""
        return self.body.max_tokens > 0 and prompt_index not in self._ended

    def _is_prefill_only(self, prompt_index: int) -> bool:
        """Return whether a prompt needs prefill, for its log probabilities or its state, and no decode."""
        has_state = self.body.return_state and len(self._prompts[prompt_index].input_ids) > 1
        return (self._is_scored(prompt_index) or has_state) and not self._is_generated(prompt_index)

    def _first_deltas(self, group: list[int]) -> Iterator[TextDelta]:
        """Yield the first deltas of a group of new choices, unless they come with the end of its prefill."""
        prompt_index = self._choices[group[0]].prompt_index
        if not self._is_scored(prompt_index) and not self._is_prefill_only(prompt_index):
            yield from self._leading_deltas(group)

    def _process_prefill(self, event: PrefillResult) -> Iterator[TextDelta]:
        group = self._groups[event.index]
        prompt_index = self._choices[event.index].prompt_index
        if event.scores is not None:
            self._scores.setdefault(event.index, []).append(event.scores)
        if event.state is not None:
            # One sequence prefills for all choices.
            unread_ids = self._prompts[prompt_index].input_ids[-1 - event.num_remaining_prompt_tokens :]
            for index in group:
                choice = self._choices[index]
                choice.point = ResumePoint(event.state, unread_ids, choice.point.num_sampled)
        if event.last and (self._is_scored(prompt_index) or self._is_prefill_only(prompt_index)):
            yield from self._leading_deltas(group)

    def _leading_deltas(self, group: list[int]) -> Iterator[TextDelta]:
        """Yield the first delta of each choice of a group: its leading text; the last one if nothing is generated."""
        body, prompt_index = self.body, self._choices[group[0]].prompt_index
        prompt = self._prompts[prompt_index]
        logprobs, leading_text = None, self._leading_text(prompt)
        scores = self._scores.pop(group[0], [])
        if body.prompt_logprobs is not None and prompt_index not in self._prompt_logprobs:
            self._prompt_logprobs[prompt_index] = prompt.logprobs_json(scores, body.prompt_logprobs)
        if body.logprobs is not None:
            logprobs = Logprobs()
            if body.echo:
                offset = 0 if self._model.backward else len(leading_text) - len(prompt.text)
                logprobs.extend(prompt.logprobs(scores, body.logprobs), offset)
        for index in group:
            choice, text = self._choices[index], self._start_choice(index)
            reason: FinishReason | None = None
            if not self._is_generated(prompt_index):
                reason = "stop" if prompt_index in self._ended else "length"
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
        choice = self._choices[index]
        leading_text = self._leading_text(self._prompts[choice.prompt_index])
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
