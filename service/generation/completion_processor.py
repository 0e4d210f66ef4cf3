"""The processor of a completion: creates the sequences of its choices, and turns their results into text deltas.

It adds the echo, and decides which choices are returned: all, the best, or those that are neither duplicates nor copies
of training text. Text is in the order of generation; see `choice`.
"""

import sys
from collections import Counter, abc
from collections.abc import Iterator
from dataclasses import dataclass, replace
from operator import attrgetter

import numpy as np

from contract import signatures
from service.api.requests import CompletionRequest
from service.generation.choice import CandidateFilter, Choice, IsCopy, TextDelta
from service.generation.hidden_states import resolve_interventions
from service.generation.logprobs import logprobs_bytes, scores_bytes
from service.generation.prompts import NO_IDS, EncodedPrompt, encode_labels
from service.generation.resume_tokens import Checkpoint, ResumeTokens, SavedMatch
from service.generation.running_request import RunningRequest
from service.scheduling.sampling_inputs import Match
from service.scheduling.sequence import ChoiceIndex, FinishReason, Result, Scores, Sequence
from service.structured_outputs.patterns import Constraint

# Returns whether a choice is a copy of training text: from its token ids, prompt and choice as one text in reading
# order, and the prompt's token ids.
IsCopyOfPrompt = abc.Callable[[abc.Sequence[int], str, np.ndarray], bool]

# A choice: its objects and its part of the response (measured: 1,500 to 2,000).
_CHOICE_BYTES = 2000
# A generated token, in a queued result or a text: 40 as a list entry and its object, and a share of its event.
_TOKEN_BYTES = 48
# An entry of `prompt_logprobs` in JSON (measured: 68 for a character), which is joined, and copied into every choice.
_PROMPT_LOGPROB_BYTES, _PROMPT_LOGPROBS_COPIES = 80, 3
# An echoed prompt: as a string, joined, and in JSON.
_ECHO_COPIES = 3
# A state: as floats, as bytes, and twice in base64.
_STATE_COPIES = 5
# Decode calls have 32 to 128 steps, except a sequence's first (8) and its last; see service.scheduling.queues.
_TOKENS_PER_CHUNK = 32


def completion_bytes(
    body: CompletionRequest, request: RunningRequest, constraints: abc.Sequence[Constraint | None]
) -> int:
    """Return an upper estimate of the bytes that generated tokens and response take, without the encoded prompts."""
    prompts, card = request.prompts, request.model.card
    num_choices = len(prompts) * (body.top_texts or body.best_of)
    num_generated, echoes = num_choices * body.max_tokens, body.best_of if body.echo else 0
    num_echoed = echoes * sum(prompt.num_tokens for prompt in prompts)
    # A search holds memory for the nodes of its texts.
    total = _TOKEN_BYTES * num_generated + (0 if body.searches else _CHOICE_BYTES * num_choices)
    total += _ECHO_COPIES * echoes * sum(sys.getsizeof(prompt.text) for prompt in prompts)
    if body.logprobs is not None:
        # A stream sends deltas as they come; a backward model's are held until the end.
        num_held = num_echoed if body.stream and card.direction == "forward" else num_echoed + num_generated
        total += scores_bytes(num_generated, card) + logprobs_bytes(num_held, body.logprobs)
    elif body.best_of > body.n:
        total += scores_bytes(num_generated, card)
    if body.prompt_logprobs is not None:
        num_prompt_tokens = sum(prompt.num_tokens for prompt in prompts)
        num_bytes = _PROMPT_LOGPROB_BYTES * (1 + body.prompt_logprobs) * (_PROMPT_LOGPROBS_COPIES + body.n)
        total += scores_bytes(num_prompt_tokens, card) + num_prompt_tokens * num_bytes
    if body.issues_resume_tokens:
        chunks = 1 + body.max_tokens // _TOKENS_PER_CHUNK
        total += num_choices * card.state_size * 4 * (chunks + _STATE_COPIES)
        # A resume token has the patterns, too.
        num_pattern_bytes = sum(
            len(pattern.source.encode()) for constraint in constraints for pattern in constraint or ()
        )
        total += body.best_of * num_pattern_bytes * _STATE_COPIES
    return total


@dataclass
class PromptOutput:
    """A prompt of a completion, and what its choices share."""

    prompt: EncodedPrompt
    held_back: str  # the text that a checkpoint held back, which a prompt makes final
    leading_text: str  # the text before the first token of its choices: `held_back`, and the prompt if it is echoed
    constraint: Constraint | None  # constraint of its choices, or None
    end: FinishReason | None  # finish reason of its choices if nothing is generated; None: tokens are generated
    is_scored: bool  # whether its tokens need log probabilities
    needs_sequences: bool  # at most one if nothing is generated
    candidates: CandidateFilter | None  # decides which choices are accepted; None: all are
    match: Match | None = None  # the match that its choices start with
    logprobs_json: bytes | None = None  # vLLM's `prompt_logprobs`, if they are requested and known


class CompletionProcessor:
    """Creates the sequences of a completion's choices, and turns their results into text deltas.

    Iterate over `client_deltas`, or get the `results`.

    Choices are submitted as earlier ones finish. If duplicates or copies are rejected, each accepted choice is one
    delta, and rejected ones are replaced.
    """

    limit_reached: bool | None = None  # that of a search

    def __init__(
        self,
        body: CompletionRequest,
        request: RunningRequest,
        constraints: abc.Sequence[Constraint | None],
        resume_tokens: ResumeTokens,
        is_copy: IsCopyOfPrompt | None,
    ) -> None:
        """`constraints` has one per prompt; `is_copy` recognizes copies of training text; None accepts them.

        Raises:
            InvalidRequest: an intervention is on a unit that the model lacks.
        """
        self.request, self.body = request, body
        self._model, self._checkpoint, self._resume_tokens = request.model, request.checkpoint, resume_tokens
        seed = request.checkpoint.seed if body.seed is None and request.checkpoint else body.seed
        assert seed is not None, "a seed is generated unless it comes with a resume token"
        self.seed = seed
        # Without an EOS token there is nothing to suppress.
        has_end = self._model.tokenizer.special.end is not None
        self._sampling = body.sampling if has_end else replace(body.sampling, min_tokens=0)
        self._interventions = resolve_interventions(body.interventions, self._model) if body.interventions else None
        # For the next text, after the end of this one; without the start token, which is the end token.
        labels = tuple(encode_labels(body.labels, self._model).tolist()[1:])
        self._label_ids = self._checkpoint.label_ids if self._checkpoint else labels
        self._stops = [self._in_order_of_generation(stop) for stop in body.stop]
        self._is_filtered = body.unique or is_copy is not None
        self._outputs = [
            self._new_output(prompt, constraint, is_copy)
            for prompt, constraint in zip(request.prompts, constraints, strict=True)
        ]
        self._choices: dict[ChoiceIndex, Choice] = {}
        # Choices that share a prefill, by the one whose sequence prefills.
        self._groups: dict[ChoiceIndex, list[Choice]] = {}
        # Accepted choices that were not returned yet.
        self._accepted: list[TextDelta] = []

    def _new_output(
        self, prompt: EncodedPrompt, constraint: Constraint | None, is_copy: IsCopyOfPrompt | None
    ) -> PromptOutput:
        body, checkpoint = self.body, self._checkpoint
        held_back = ""
        end: FinishReason | None = None if body.max_tokens else "length"
        if checkpoint and not prompt.is_empty:
            detokenizer = self._model.tokenizer.detokenizer(backward=self._model.backward)
            detokenizer.restore(checkpoint.detokenizer)
            held_back = checkpoint.held_back + self._in_order_of_generation(detokenizer.flush())
        resumed = checkpoint.match if checkpoint else None
        if resumed and constraint is resumed.constraint and resumed.row == signatures.FINAL_ROW:
            # The match cannot be extended.
            end = "stop"
        is_requested = (body.echo and body.logprobs is not None) or body.prompt_logprobs is not None
        is_scored = is_requested and prompt.ids.size > 0 and len(prompt.input_ids) > 1
        needs_state = body.return_state and len(prompt.input_ids) > 1
        return PromptOutput(
            prompt,
            held_back,
            held_back + (self._in_order_of_generation(prompt.text) if body.echo else ""),
            constraint,
            end,
            is_scored,
            needs_sequences=not end or is_scored or needs_state,
            candidates=CandidateFilter(body.n, body.unique, is_copy and self._completes_copy(prompt, is_copy))
            if self._is_filtered
            else None,
        )

    def _in_order_of_generation(self, text: str) -> str:
        """Mirror the text of a backward model."""
        return text[::-1] if self._model.backward else text

    def choices_to_submit(self) -> Iterator[ChoiceIndex]:
        for number, output in enumerate(self._outputs):
            if output.needs_sequences:
                yield from ((number, choice) for choice in range(1 if output.end else self.body.best_of))

    def submit(self, matches: abc.Sequence[Match | None]) -> None:
        """Submit the admitted choices; those of each prompt start with a match of its constraint."""
        for output, match in zip(self._outputs, matches, strict=True):
            output.match = match
        self.request.submit(self._create)

    @property
    def num_rejected(self) -> int | None:
        """Number of rejected choices; None without a filter."""
        filters = [output.candidates for output in self._outputs if output.candidates]
        return sum(each.num_rejected for each in filters) if filters else None

    @property
    def prepends(self) -> bool:
        """Whether the client prepends each delta of `client_deltas` to the earlier ones."""
        return self._model.backward and self.body.stream_options.prepend and not self._is_filtered

    def client_deltas(self) -> Iterator[TextDelta]:
        """Yield the deltas that the client concatenates, until all have finished; raise as `RunningRequest.results`.

        A client that did not ask for `prepend` gets each choice of a backward model as one delta.
        """
        if self._is_filtered:
            yield from self._accepted_choices()
            return
        for choice in self._updated_choices():
            if choice.finish_reason or self.prepends or not self._model.backward:
                delta = self._delta(choice)
                if choice.finish_reason:
                    del self._choices[choice.index]
                if not delta.is_empty:
                    yield delta

    def results(self) -> list[TextDelta]:
        """Wait for every choice and return the best `n` of each prompt; raise as `RunningRequest.results`.

        They are in the response's order: by prompt, the best first. `index // n` of each is its prompt, even if a
        prompt has fewer choices than `n`.
        """
        if self._is_filtered:
            self._accepted.extend(self._accepted_choices())
            return sorted(self._accepted, key=attrgetter("index"))
        for _ in self._updated_choices():
            pass
        best = [choice for number in range(len(self._outputs)) for choice in self._best(number)]
        return [self._delta(choice, index) for index, choice in enumerate(best)]

    def prompt_logprobs(self, index: int) -> bytes | None:
        """Return vLLM's `prompt_logprobs` of the prompt of a result, as JSON; None if they are not requested."""
        return self._outputs[index // self.body.n].logprobs_json

    def partial_outputs(self, *, with_resume_tokens: bool = True) -> list[TextDelta]:
        """Return the output that was not yet returned when the request failed.

        Resume tokens are useless if the version is no longer served; held-back text then belongs to the output.
        """
        if self._is_filtered:
            return self._accepted
        outputs = []
        for _, choice in sorted(self._choices.items()):
            if choice.finish_reason is None:
                choice.interrupt(is_resumable=with_resume_tokens)
            needs_token = with_resume_tokens and (self.body.return_state or choice.finish_reason is None)
            outputs.append(choice.take_delta(self._number(choice), self._resume_token(choice) if needs_token else None))
        return outputs

    def _updated_choices(self) -> Iterator[Choice]:
        """Yield each choice when it may have new text, until all have finished."""
        for number, output in enumerate(self._outputs):
            if output.end and not output.needs_sequences:
                yield from self._end_ungenerated(self._new_group(number, range(self.body.best_of)), output.end)
        # The echo does not wait for the first token, unless it waits for the log probabilities of the prompt.
        for choice in list(self._choices.values()):
            output = self._outputs[choice.index[0]]
            if not output.end and not output.is_scored:
                yield choice
        for result in self.request.results(self._create):
            if result.sampled_ids:
                yield self._process_decode(result)
            else:
                yield from self._process_prefill(result)

    def _accepted_choices(self) -> Iterator[TextDelta]:
        """Yield each accepted choice as one delta, numbered in the order of acceptance within its prompt."""
        for choice in self._updated_choices():
            number, output = choice.index[0], self._outputs[choice.index[0]]
            if choice.finish_reason is None or output.candidates is None:
                continue
            for candidate, rank in output.candidates.decide(
                choice.index[1], choice.token_ids or (), choice.pending_text
            ):
                decided = self._choices.pop((number, candidate))
                if rank is None:
                    self._replace(number, output.candidates)
                else:
                    yield self._delta(decided, number * self.body.n + rank)

    def _replace(self, number: int, candidates: CandidateFilter) -> None:
        """Replace a rejected candidate, unless the new one would be equal or the limit is reached."""
        is_fixed = self._sampling.is_greedy or self._outputs[number].end is not None
        candidate = None if is_fixed else candidates.next_candidate()
        if candidate is not None:
            self.request.context.charge(self.body.max_tokens)
            self.request.waiting.append((number, candidate))

    def _completes_copy(self, prompt: EncodedPrompt, is_copy: IsCopyOfPrompt) -> IsCopy:
        """Return a function that recognizes choices with which a prompt becomes a copy of training text."""
        # Without the checkpoint's unread tokens: they are not part of this text.
        ids = prompt.input_ids[len(prompt.prefix_ids) :] if prompt.ids.size else NO_IDS
        echo = "" if self.body.echo else self._in_order_of_generation(prompt.text)
        return lambda token_ids, text: is_copy(token_ids, self._in_order_of_generation(echo + text), ids)

    def _best(self, number: int) -> list[Choice]:
        """Return the `n` choices of a prompt with the highest mean log probability; by index if `best_of` is `n`."""
        choices = [self._choices[number, i] for i in range(self.body.best_of)]
        if self.body.best_of > self.body.n:
            choices.sort(key=lambda choice: choice.mean_logprob, reverse=True)
        return choices[: self.body.n]

    def _create(self, indexes: list[ChoiceIndex]) -> list[Sequence]:
        """Create choices of one prompt, and return their sequences."""
        (number, _), body = indexes[0], self.body
        output = self._outputs[number]
        # If nothing is generated, one sequence prefills for all choices.
        choices = self._new_group(number, range(body.best_of) if output.end else [choice for _, choice in indexes])
        # The best choices are those with the highest log probabilities.
        ranks_choices = body.best_of > body.n and body.logprobs is None
        # `prompt_logprobs` has the rank of each token.
        prompt_num_top = (body.logprobs or 0) if body.prompt_logprobs is None else self._model.card.num_top
        return [
            self.request.new_sequence(
                choice.index,
                prefill_signature=signatures.SCORE if output.is_scored else signatures.PREFILL,
                prompt_num_top=prompt_num_top if output.is_scored else 0,
                # A complete match is not continued, even if tokens are left.
                max_tokens=0 if output.end else body.max_tokens,
                sampling=self._sampling,
                seen_ids=output.prompt.seen_ids if self._sampling.repetition_penalty != 1 else NO_IDS,
                match=output.match.copy() if output.match else None,
                interventions=self._interventions,
                seed=self.seed,
                random_stream=choice.random_stream,
                num_top=0 if ranks_choices else body.logprobs,
                returns_state=body.issues_resume_tokens,
            )
            for choice in choices[: len(indexes)]
        ]

    def _new_group(self, number: int, choices: abc.Iterable[int]) -> list[Choice]:
        """Create choices of one prompt, which share its prefill."""
        output = self._outputs[number]
        group = [self._new_choice(output, (number, choice)) for choice in choices]
        self._choices |= {choice.index: choice for choice in group}
        if output.is_scored or self.body.issues_resume_tokens:
            self._groups[group[0].index] = group
        if not output.is_scored:
            self._add_prompt_logprobs(output, group, [])
        return group

    def _new_choice(self, output: PromptOutput, index: ChoiceIndex) -> Choice:
        body, checkpoint, backward, held_back = self.body, self._checkpoint, self._model.backward, ""
        detokenizer = self._model.tokenizer.detokenizer(output.prompt.text, backward=backward)
        if checkpoint and output.prompt.is_empty:
            detokenizer.restore(checkpoint.detokenizer)
            held_back = checkpoint.held_back
        random_stream = checkpoint.branch(index[1]) if checkpoint else index[1]
        return Choice(
            index,
            detokenizer,
            self._stops,
            backward=backward,
            num_top=body.logprobs,
            leading_text=output.leading_text,
            held_back=held_back,
            checkpoint=self._new_checkpoint(output, random_stream) if body.issues_resume_tokens else None,
            match=output.match.copy() if output.match and body.issues_resume_tokens else None,
            may_continue_after_end=body.return_state,
            random_stream=random_stream,
            keeps_token_ids=self._is_filtered,
        )

    def _new_checkpoint(self, output: PromptOutput, random_stream: int) -> Checkpoint:
        """Return the point before the first token of a choice."""
        resumed, model, token_counts, saved_match = self._checkpoint, self._model, None, None
        if self._sampling.counts_tokens:
            token_counts = Counter(resumed.token_counts if resumed else None)
            for token_id in output.prompt.seen_ids.tolist() if self._sampling.repetition_penalty != 1 else ():
                token_counts.setdefault(token_id, 0)
        if output.match is not None and output.constraint is not None:
            saved_match = SavedMatch(output.constraint, output.match.row, output.match.automaton.digest)
        return Checkpoint(
            model.ref,
            model.card.weights_sha256,
            self.request.initial_state,
            output.prompt.input_ids,
            num_sampled=resumed.num_sampled if resumed else 0,
            seed=self.seed,
            random_stream=random_stream,
            token_counts=token_counts,
            match=saved_match,
            label_ids=self._label_ids,
        )

    def _process_prefill(self, result: Result) -> Iterator[Choice]:
        """Process the result of the sequence that prefills for a group; yield its choices if they have new text."""
        group = self._groups.pop(result.index) if result.is_prefilled else self._groups[result.index]
        leader, output = group[0], self._outputs[result.index[0]]
        if result.scores is not None:
            leader.prompt_scores.append(result.scores)
        if result.state is not None:
            unread_ids = output.prompt.input_ids[-1 - result.num_remaining_prompt_tokens :]
            for choice in group:
                if choice.checkpoint is not None:
                    choice.checkpoint.state, choice.checkpoint.unread_ids = result.state, unread_ids
        if result.is_prefilled and output.is_scored:
            self._add_prompt_logprobs(output, group, leader.prompt_scores)
            leader.prompt_scores = []
        if result.is_prefilled and output.end:
            yield from self._end_ungenerated(group, output.end)
        elif result.is_prefilled and output.is_scored:
            yield from group

    def _add_prompt_logprobs(self, output: PromptOutput, group: list[Choice], scores: list[Scores]) -> None:
        """Add the log probabilities of a prompt to its response, and to its echo in choices."""
        body, prompt = self.body, output.prompt
        if body.prompt_logprobs is not None and output.logprobs_json is None:
            output.logprobs_json = prompt.logprobs_json(scores, body.prompt_logprobs)
        if body.echo and body.logprobs is not None:
            logprobs = prompt.logprobs(scores, body.logprobs)
            if self._model.backward:
                logprobs = logprobs.mirrored(len(prompt.text))
            for choice in group:
                choice.add_logprobs(logprobs, shift=len(output.held_back))

    def _end_ungenerated(self, group: list[Choice], reason: FinishReason) -> Iterator[Choice]:
        """Finish choices whose prompt was prefilled, if it had to be, and for which nothing is generated."""
        for choice in group:
            choice.finish(reason)
            self.request.finish(choice.index, choice.finish_reason)
            yield choice

    def _process_decode(self, result: Result) -> Choice:
        choice, request = self._choices[result.index], self.request
        request.report_tokens(result.index, len(result.token_ids))
        request.num_completion_tokens += choice.take(result)
        if choice.finish_reason:
            # A stop string ends a sequence that would continue.
            request.finish(result.index, choice.finish_reason, cancel=result.finish_reason is None)
        return choice

    def _delta(self, choice: Choice, index: int | None = None) -> TextDelta:
        body = self.body
        is_due = body.return_state if choice.finish_reason else choice.is_due(body.stream_options.state_interval)
        number = self._number(choice) if index is None else index
        return choice.take_delta(number, self._resume_token(choice) if is_due else None)

    def _number(self, choice: Choice) -> int:
        return choice.index[0] * self.body.best_of + choice.index[1]

    def _resume_token(self, choice: Choice) -> str | None:
        checkpoint = choice.save()
        return None if checkpoint is None else self._resume_tokens.seal(checkpoint, self.request.context.tenant)
