"""The engine turns a validated body into a running request: it finds the model, charges, encodes, admits and submits.

In vLLM this is the front end of the engine, with its input processor; the loop of vLLM's EngineCore is
`service.scheduling.scheduler`.
"""

from collections.abc import Callable

import numpy as np

from contract import signatures
from contract.training_filter import SPANS
from service.api.body import require
from service.api.requests import (
    CompletionRequest,
    EmbeddingsRequest,
    InspectRequest,
    NextRequest,
    PromptText,
    ScoreRequest,
)
from service.context import RequestContext
from service.errors import GatewayError, InvalidRequest, StateRefused
from service.generation.completion_processor import CompletionProcessor, IsCopyOfPrompt, completion_bytes
from service.generation.hidden_states import EmbeddingProcessor, InspectionProcessor, requested_activations
from service.generation.next_words import NextWordsProcessor, last_word
from service.generation.prompts import (
    NO_IDS,
    EncodedPrompt,
    encode_labels,
    encode_prompts,
    require_at_most,
    require_encodable,
    require_ids,
)
from service.generation.resume_tokens import Checkpoint, ResumeTokens
from service.generation.running_request import RunningRequest
from service.generation.search_processor import SearchProcessor
from service.generation.text_scores import ScoreProcessor
from service.models.registry import MayUse, ModelRegistry, ServedModel
from service.models.training_filters import TrainingFilters
from service.observability.metrics import Metrics
from service.scheduling.admission import Admission, AdmissionControl
from service.scheduling.sampling_inputs import FIRST_ROW, Match
from service.scheduling.scheduler import Scheduler
from service.settings import Settings
from service.structured_outputs.automata import TokenTexts
from service.structured_outputs.compiler_pool import CompilerPool
from service.structured_outputs.json_schema import SchemaError
from service.structured_outputs.patterns import Constraint
from service.structured_outputs.regex_syntax import PatternError

Body = CompletionRequest | EmbeddingsRequest | InspectRequest | NextRequest | ScoreRequest
# Called with each request before it waits for admission; the web layer watches the client, and closes the request.
OnStart = Callable[[RunningRequest], object]
_NO_CALLBACK: OnStart = lambda _: None  # noqa: E731


class Engine:
    """Starts requests; each method returns the processor of a running one."""

    def __init__(
        self,
        model_registry: ModelRegistry,
        scheduler: Scheduler,
        admission: AdmissionControl,
        metrics: Metrics,
        settings: Settings,
        resume_tokens: ResumeTokens,
        compiler: CompilerPool,
        training_filters: TrainingFilters,
    ) -> None:
        self._model_registry, self._scheduler, self._admission_control = model_registry, scheduler, admission
        self._metrics, self._settings = metrics, settings
        self._resume_tokens, self._compiler, self._training_filters = resume_tokens, compiler, training_filters

    def start_completion(
        self, body: CompletionRequest, context: RequestContext, on_start: OnStart = _NO_CALLBACK
    ) -> CompletionProcessor | SearchProcessor:
        """Encode the prompts, admit the first sequences, compile their constraint and submit them.

        Raises:
            GatewayError: the model is not served or has the other direction, a prompt is too long or has unknown ids,
                the resume token is unusable, no completion would match the constraint, the response would be too large,
                the queue is full, or the client disconnected or the deadline passed before the constraint was compiled.
        """
        request = self._new_request(body, context, body.state, body.seed)
        model = request.model
        field, raw_prompts = _input_field(body, model)
        require_ids([token_id for token_id, _ in body.sampling.bias], model, "logit_bias")
        # The most probable texts are charged while they are searched for.
        num_generated = 0 if body.top_texts else len(raw_prompts) * body.best_of * body.max_tokens
        labels = _label_ids(body, model)
        with context.refunds_on_failure():
            self._encode(request, raw_prompts, field, "max_tokens", num_generated, first=labels)
            prompts, constraints = request.prompts, _constraints(body, request)
            # Free the unencoded prompts.
            body = body.model_copy(update={"prompt": None, "suffix": None})
            self._require_response_fits(body, prompts, field)
            num_held = _hold_memory(request, completion_bytes(body, request, constraints))
            processor: CompletionProcessor | SearchProcessor
            if body.searches:
                processor = SearchProcessor(body, request, num_held, self._settings.max_search_tokens)
            else:
                is_copy = self._copy_filter(model) if body.not_in_training else None
                processor = CompletionProcessor(body, request, constraints, self._resume_tokens, is_copy)
            on_start(request)
            max_tokens = 0 if body.searches else body.max_tokens
            request.admit(processor.choices_to_submit(), max_tokens, field="max_tokens")
            # While it waits for the compiler, admission control counts the request.
            processor.submit([self._match(body, request, each) if each else None for each in constraints])
        return processor

    def start_next(
        self, body: NextRequest, context: RequestContext, on_start: OnStart = _NO_CALLBACK
    ) -> NextWordsProcessor:
        """Encode the prompt and submit its prefill; raise as `start_completion`."""
        request = self._new_request(body, context)
        model = request.model
        if model.backward:
            raise InvalidRequest(
                f"model must be a forward model, got {model.ref.name!r}: it is backward", param="model"
            )
        with context.refunds_on_failure():
            self._encode(request, body.prompts, "prompt", "prompt", first=_label_ids(body, model))
            # Free the unencoded prompt. Each of the words may continue the prompt's last one; a character takes four
            # bytes in it, and as many in JSON.
            begun = last_word(request.prompts[0].text)
            num_held = _hold_memory(request, body.n * 8 * len(begun))
            processor = NextWordsProcessor(body.model_copy(update={"prompt": ""}), request, begun, num_held)
            on_start(request)
            request.admit(processor.choices_to_submit(), field="prompt")
            processor.submit()
        return processor

    def start_embedding(
        self, body: EmbeddingsRequest, context: RequestContext, on_start: OnStart = _NO_CALLBACK
    ) -> EmbeddingProcessor:
        """Encode the texts and submit their prefill; raise as `start_completion`."""
        request = self._new_request(body, context)
        units = request.model.card.units
        is_width = body.dimensions in (None, units)
        require(is_width, "dimensions", f"be {units}, the width of the model's top layer", body.dimensions)
        with context.refunds_on_failure():
            self._encode(request, body.prompts, "input", "input", first=_label_ids(body, request.model))
            # Free the unencoded texts.
            processor = EmbeddingProcessor(body.model_copy(update={"input": ""}), request)
            _hold_memory(request, processor.num_bytes)
            on_start(request)
            request.admit((number, 0) for number in range(len(request.prompts)))
            request.submit(processor.create)
        return processor

    def start_score(
        self, body: ScoreRequest, context: RequestContext, on_start: OnStart = _NO_CALLBACK
    ) -> ScoreProcessor:
        """Encode the texts and submit them to the model, and to that of `ratio_to`; raise as `start_completion`."""
        # One for both models, so that the second waits for a key's only sequence instead of being refused.
        admission = self._admission_control.open(context)
        with context.refunds_on_failure():
            processor = self._start_score(body, context, admission, on_start)
            if body.ratio_to is not None:
                other = body.model_copy(update={"model": body.ratio_to, "whole": processor.is_whole, "labels": {}})
                try:
                    processor.reference = self._start_score(other, context, admission, after=processor)
                except GatewayError as error:
                    if error.param == "model":
                        error.param = "ratio_to"
                    raise
        return processor

    def _start_score(
        self,
        body: ScoreRequest,
        context: RequestContext,
        admission: Admission,
        on_start: OnStart = _NO_CALLBACK,
        after: ScoreProcessor | None = None,
    ) -> ScoreProcessor:
        """Encode texts and submit them to one model, `after` those of another one; raise as `start_completion`."""
        request, settings = self._new_request(body, context, body.state, admission=admission), self._settings
        # Drops the unencoded texts, to which only this frame refers.
        processor = ScoreProcessor(body.model_copy(update={"input": ""}), request, self._resume_tokens)
        held, num_charged = 0, 0
        if after is not None:
            after.request.companion = request
            held, num_charged = after.num_bytes, sum(len(text.input_ids) for text in after.texts)
        self._encode(request, body.prompts, "input", "input", num_charged, first=processor.start, held=held)
        num_tokens, limit = request.num_prompt_tokens, settings.max_logprobs_tokens
        if body.carry_state:
            require_at_most(num_tokens, settings.max_prompt_tokens, "input", total=" in all with carry_state")
        if body.tokens and num_tokens > limit:
            raise InvalidRequest(f"tokens may be returned for at most {limit} tokens, got {num_tokens}", param="tokens")
        processor.lay_out()
        context.memory.hold(held + processor.num_bytes, "the request and its response")
        on_start(request)
        request.admit(processor.choices)
        request.submit(processor.create)
        return processor

    def start_inspection(
        self, body: InspectRequest, context: RequestContext, on_start: OnStart = _NO_CALLBACK
    ) -> InspectionProcessor:
        """Encode a text and submit its inspection.

        Raise as `start_completion`, and for an unknown layer or too many values.
        """
        request = self._new_request(body, context, body.state)
        _require_layers(body, request.model)
        with context.refunds_on_failure():
            labels = _label_ids(body, request.model)
            self._encode(request, body.prompts, "input", "input", reverse=body.go_backwards, first=labels)
            # Free the unencoded text.
            processor = InspectionProcessor(body.model_copy(update={"input": ""}), request)
            limit, count = self._settings.max_inspect_values, processor.num_values
            if count > limit:
                raise InvalidRequest(
                    f"the response may have at most {limit} values (positions × values per position), got {count}; "
                    "request fewer layers or kinds of values, or set max_positions or max_units",
                    param="input",
                )
            _hold_memory(request, processor.num_bytes)
            on_start(request)
            request.admit([(0, 0)])
            request.submit(processor.create)
        return processor

    def _match(self, body: CompletionRequest, request: RunningRequest, constraint: Constraint) -> Match:
        """Return a new match, or the one that a checkpoint resumes.

        Raises:
            InvalidRequest: it cannot be compiled, or not completed within `max_tokens`.
            StateRefused: another release compiled the resumed match.
            GatewayError: the client disconnected or the deadline passed, or too many patterns wait.
        """
        model, saved = request.model, request.checkpoint.match if request.checkpoint else None
        # `_constraints` returns the checkpoint's own object if its match continues.
        resumed = saved if saved and constraint is saved.constraint else None
        fields = ["state"] if resumed else list(body.constraint_by_field)
        try:
            automaton = self._compiler.compile(
                constraint,
                (model.ref, model.card.weights_sha256),
                lambda: _token_texts(model),
                sender=request.context.sender,
                wait=request.wait,
            )
        except PatternError as error:
            field, separator = fields[0], ": " if isinstance(error, SchemaError) else " "
            if error.is_combined and len(fields) > 1:
                field = f"{' and '.join(fields)}: their combination"
            raise InvalidRequest(f"{field}{separator}{error}", param=fields[0].split(".", maxsplit=1)[0]) from error
        if resumed and resumed.digest != automaton.digest:
            raise StateRefused(
                "state contains a match of a pattern that another release of this server compiled. Send the text "
                "so far as a prompt instead",
                "state_outdated",
            )
        row = resumed.row if resumed else FIRST_ROW
        match = Match(automaton, row, body.max_tokens if body.complete_within_max_tokens else None)
        is_limited = body.complete_within_max_tokens and match.is_extensible
        limit = f"be at least {match.num_missing}, the tokens of the shortest match of {' and '.join(fields)}"
        end_id, may_end = model.tokenizer.special.end, False
        if end_id is not None and not body.sampling.min_tokens:
            # The match is complete, or the pattern matches the empty text.
            may_end = automaton.table[row, end_id] != signatures.FORBIDDEN
        is_too_short = is_limited and not may_end and 0 < body.max_tokens < match.num_missing
        require(not is_too_short, "max_tokens", limit, body.max_tokens)
        return match

    def _copy_filter(self, model: ServedModel) -> IsCopyOfPrompt:
        """Return a function that recognizes copies of training text; raise InvalidRequest without a filter."""
        training_filter = self._training_filters.get(model)
        if training_filter is None:
            name, number = model.ref.name, model.ref.number
            has_none = f"version {number} has no training filter; `sostenuto show {name}:{number}` says why"
            raise InvalidRequest(
                f"not_in_training must be false for model {name!r}: {has_none}", param="not_in_training"
            )
        contains, tokenizer = training_filter.contains, model.tokenizer
        if training_filter.kind == SPANS or not tokenizer.changes_text:
            return contains
        # The filter has documents as the model generates them, and the prompt is as the client wrote it.
        return lambda ids, text, prompt_ids: contains(ids, tokenizer.decode(tokenizer.encode(text)), prompt_ids)

    def _encode(
        self,
        request: RunningRequest,
        raw_prompts: tuple[PromptText, ...],
        field: str,
        param: str,
        num_more: int = 0,
        *,
        reverse: bool = False,
        first: np.ndarray = NO_IDS,
        held: int = 0,
    ) -> None:
        """Charge and encode prompts in the model's direction or reverse.

        They follow a checkpoint's unread tokens, or the tokens `first`. A refusal names the field `param`; `num_more`
        tokens, such as those to be generated, are charged, too. `held` bytes of memory stay held.
        """
        model, checkpoint, context = request.model, request.checkpoint, request.context
        # A minimum before encoding, so that a request beyond the rate limit causes hardly any work.
        context.charge_up_to(require_encodable(raw_prompts, model, field, self._settings) + num_more, param)
        prefix_ids = first if checkpoint is None else checkpoint.input_ids(model.tokenizer.special.end)
        backward = model.backward != reverse
        request.prompts = encode_prompts(
            raw_prompts,
            model,
            field,
            self._settings,
            context.memory,
            prefix_ids=prefix_ids,
            backward=backward,
            held=held,
        )
        context.charge_up_to(sum(len(prompt.input_ids) for prompt in request.prompts) + num_more, param)

    def _new_request(
        self,
        body: Body,
        context: RequestContext,
        resume_token: str | None = None,
        seed: int | None = None,
        admission: Admission | None = None,
    ) -> RunningRequest:
        """Return a request with its version and checkpoint; refuse an unknown model and an unusable resume token."""
        if resume_token is None:
            model, checkpoint = self._model_registry.find(body.model, seed, may_use=context.may_use), None
        else:
            checkpoint = self._resume_tokens.open(resume_token, context.tenant)
            model = self._version_of(checkpoint, body.model, seed, context.may_use)
        return RunningRequest(
            model,
            checkpoint,
            context,
            body.timeout_s,
            scheduler=self._scheduler,
            admission=admission or self._admission_control.open(context),
            metrics=self._metrics,
            max_unfinished=self._settings.max_running,
        )

    def _version_of(self, checkpoint: Checkpoint, name: str | None, seed: int | None, may_use: MayUse) -> ServedModel:
        """Return the version of a checkpoint; refuse one that is not served or not the requested one."""
        saved, requested = checkpoint.model, checkpoint.model.name if name is None else name
        named = self._model_registry.find(requested, seed, may_use=may_use)
        # A name without a version or label leaves the version to the checkpoint.
        if saved != named.ref and requested != saved.name:
            raise StateRefused(
                f"state must be of model {requested[:64]!r}, which the request names, got one of version "
                f"{saved.number} of {saved.name!r}",
                "state_of_another_model",
            )
        model = self._model_registry.find_version(saved, may_use=may_use)
        # The number may belong to another version by now.
        if model is None or model.card.weights_sha256 != checkpoint.weights_sha256:
            raise StateRefused(
                f"state is of version {saved.number} of model {saved.name!r}, which is no longer served; version "
                f"{named.ref.number} is. Send the text so far as a prompt instead",
                "state_outdated",
            )
        return model

    def _require_response_fits(self, body: CompletionRequest, prompts: list[EncodedPrompt], field: str) -> None:
        """Refuse a request whose response would take hundreds of megabytes."""
        settings, num_tokens = self._settings, sum(prompt.num_tokens for prompt in prompts)
        num_echoed = num_tokens * body.best_of if body.echo else 0
        num_held = sum(len(prompt.input_ids) for prompt in prompts) * body.best_of if body.issues_resume_tokens else 0
        num_logprobs = num_echoed + len(prompts) * body.best_of * body.max_tokens if body.logprobs is not None else 0
        num_scored = num_tokens * body.n if body.prompt_logprobs is not None else 0
        each, most, most_scored = f"every {field} × n", settings.max_request_tokens, settings.max_logprobs_tokens
        held, scored = f"{each}, as each may contain its whole {field}", f"all choices, and of every {field} with echo"
        for param, what, count, limit, counted in (
            ("echo", "echo may repeat", num_echoed, most, each),
            ("return_state", "resume tokens may contain", num_held, most, held),
            ("logprobs", "logprobs may be returned for", num_logprobs, most_scored, scored),
            ("prompt_logprobs", "prompt_logprobs may be returned for", num_scored, most_scored, each),
        ):
            if count > limit:
                raise InvalidRequest(f"{what} at most {limit} tokens (of {counted}), got {count}", param=param)


def _constraints(body: CompletionRequest, request: RunningRequest) -> list[Constraint | None]:
    """Return the constraint of each prompt's choices.

    A resumed match continues, unless the request has a different constraint or a prompt, or repeats the constraint of a
    match that cannot be extended.
    """
    resumed = request.checkpoint.match if request.checkpoint else None
    if resumed is None:
        return [body.constraint] * len(request.prompts)
    repeats = body.constraint == resumed.constraint and resumed.row != signatures.FINAL_ROW
    continues = body.constraint is None or repeats
    return [resumed.constraint if continues and prompt.is_empty else body.constraint for prompt in request.prompts]


def _hold_memory(request: RunningRequest, num_response_bytes: int) -> int:
    """Hold the memory that the request needs from here to its end; return the bytes."""
    num_bytes = sum(prompt.num_bytes for prompt in request.prompts) + num_response_bytes
    request.context.memory.hold(num_bytes, "the request and its response")
    return num_bytes


def _token_texts(model: ServedModel) -> TokenTexts:
    """Return the text that each token adds; raise PatternError if it depends on other tokens."""
    tokenizer, special = model.tokenizer, model.tokenizer.special
    textless, sampled = {*special.never_sampled, special.end}, []
    for is_first in (True, False):
        tokens = tokenizer.token_bytes(first=is_first, backward=model.backward)
        if tokens is None:
            raise PatternError(
                f"is not supported for model {model.ref.name!r}: the text of its tokens depends on those beside them"
            )
        sampled.append(tuple(b"" if i in textless else token for i, token in enumerate(tokens)))
    first, following = sampled
    return TokenTexts(first, following, special.end, model.card.vocab_size, model.backward)


def _label_ids(
    body: CompletionRequest | EmbeddingsRequest | InspectRequest | NextRequest, model: ServedModel
) -> np.ndarray:
    """Return the tokens that the model reads before a text with labels, int32 (tokens,): none without labels."""
    return encode_labels(body.labels, model) if body.labels else NO_IDS


def _require_layers(body: InspectRequest, model: ServedModel) -> None:
    layers = sorted({each.layer for each in model.card.activations})
    unknown = [layer for layer in body.layers or () if layer not in layers]
    if unknown:
        raise InvalidRequest(
            f"layers of model {model.ref.name!r} are {', '.join(map(str, layers))}, got {unknown[0]}", param="layers"
        )
    for each in requested_activations(body, model):
        largest = max(body.units or (0,))
        if largest >= each.units:
            message = f"units of layer {each.layer} must be at most {each.units - 1}, got {largest}"
            raise InvalidRequest(message, param="units")


def _input_field(body: CompletionRequest, model: ServedModel) -> tuple[str, tuple[PromptText, ...]]:
    """Return name and value of the field that a model reads; raise InvalidRequest unless the other one is empty."""
    read, other = ("prompt", body.prompts), ("suffix", body.suffixes)
    if model.backward:
        read, other = other, read
    name, values = other
    if len(values) > 1 or values[0]:
        raise InvalidRequest(
            f"{name} must be empty or absent: {model.ref.name!r} is a {model.card.direction} model, which takes "
            f"{read[0]}",
            param=name,
        )
    return read
