"""The engine turns a validated body into a running request: it finds the model, charges, encodes, admits and submits.

In vLLM this is the front end of the engine, with its input processor; the loop of vLLM's EngineCore is
`service.scheduling.scheduler`.
"""

from collections.abc import Callable

from contract import signatures
from service.api.requests import CompletionRequest, EmbeddingsRequest, InspectRequest, PromptText
from service.context import RequestContext, TokenCharges
from service.errors import InvalidRequest, StateRefused
from service.generation.candidate_filter import IsCopy
from service.generation.hidden_states import EmbeddingProcessor, InspectionProcessor, num_values
from service.generation.memory_estimates import completion_bytes, embedding_bytes, inspection_bytes
from service.generation.output_processor import OutputProcessor
from service.generation.prompts import NO_IDS, EncodedPrompt, encode_prompts, require_encodable, require_ids
from service.generation.request import Request
from service.generation.resume_tokens import Checkpoint, ResumeTokens
from service.limits import Limits
from service.models.registry import ModelRegistry, ServedModel
from service.models.training_filters import TrainingFilters
from service.observability.metrics import Metrics
from service.scheduling.admission import AdmissionControl
from service.scheduling.constraints import FIRST_ROW, Match
from service.scheduling.scheduler import Scheduler
from service.structured_outputs.automata import TokenTexts
from service.structured_outputs.compiler import ConstraintCompiler
from service.structured_outputs.json_schema import SchemaError
from service.structured_outputs.patterns import Constraint
from service.structured_outputs.regex_syntax import PatternError

Processor = OutputProcessor | EmbeddingProcessor | InspectionProcessor
# Is called with each request before it waits: watches its client, and closes it in the end.
Watch = Callable[[Request], object]


def _watch_nobody(request: Request) -> None:
    """Leave a request without a client."""


class Engine:
    """Starts requests; each method returns the processor of a running one."""

    def __init__(
        self,
        model_registry: ModelRegistry,
        scheduler: Scheduler,
        admission: AdmissionControl,
        metrics: Metrics,
        limits: Limits,
        resume_tokens: ResumeTokens,
        compiler: ConstraintCompiler,
        training_filters: TrainingFilters,
    ) -> None:
        self._model_registry, self._scheduler, self._admission = model_registry, scheduler, admission
        self._metrics, self._limits = metrics, limits
        self._resume_tokens, self._compiler, self._training_filters = resume_tokens, compiler, training_filters

    def complete(
        self, body: CompletionRequest, context: RequestContext, watch: Watch = _watch_nobody
    ) -> OutputProcessor:
        """Encode the prompts, admit the first sequences, compile their constraint and submit them.

        Raises:
            GatewayError: the model is not served or has the other direction, a prompt is too long or has unknown ids,
                the resume token is not usable, no completion would match the constraint, the response would be too
                large, the queue is full, or the client disconnected or the deadline passed before the constraint was
                compiled.
        """
        model, checkpoint = self._find_model(body.model, body.state, context.quota.tenant, body.seed)
        field, raw_prompts = _input_field(body, model)
        require_ids([token_id for token_id, _ in body.sampling.bias], model, "logit_bias")
        _require_num_top(body, model)
        num_generated = len(raw_prompts) * body.best_of * body.max_tokens
        with TokenCharges(context, "max_tokens", num_generated) as charges:
            prompts = self._encode(raw_prompts, model, field, context, charges, checkpoint)
            constraints = _constraints(body, prompts, checkpoint)
            # Free the unencoded prompts.
            body = body.model_copy(update={"prompt": None, "suffix": None})
            self._require_response_fits(body, prompts, field)
            num_bytes = completion_bytes(body, model.card, prompts, [each for each in constraints if each])
            _hold_memory(prompts, num_bytes, context)
            is_copy = self._copy_filter(model) if body.not_in_training else None
            request = self._request(model, prompts, context, body.timeout_s, watch, checkpoint)
            processor = OutputProcessor(body, request, constraints, self._resume_tokens, is_copy)
            request.admit(processor.choices_to_submit(), body.max_tokens, field="max_tokens")
            # While it waits for the compiler, the request is one of those that admission control counts.
            processor.submit([self._match(body, request, each) if each else None for each in constraints])
        return processor

    def embed(
        self, body: EmbeddingsRequest, context: RequestContext, watch: Watch = _watch_nobody
    ) -> EmbeddingProcessor:
        """Encode the texts and submit their prefill; raise as `complete`."""
        model = self._model_registry.find(body.model)
        if body.dimensions not in (None, model.card.units):
            raise InvalidRequest(
                f"dimensions must be {model.card.units}, the width of the model's top layer, got {body.dimensions}",
                param="dimensions",
            )
        with TokenCharges(context, "input") as charges:
            prompts = self._encode(body.prompts, model, "input", context, charges)
            _hold_memory(prompts, embedding_bytes(len(prompts), model.card.units), context)
            # Free the unencoded texts.
            body = body.model_copy(update={"input": ""})
            request = self._request(model, prompts, context, body.timeout_s, watch)
            processor = EmbeddingProcessor(body, request)
            request.admit((number, 0) for number in range(len(prompts)))
            request.submit(processor.create)
        return processor

    def inspect(
        self, body: InspectRequest, context: RequestContext, watch: Watch = _watch_nobody
    ) -> InspectionProcessor:
        """Encode a text and submit its inspection.

        Raises:
            GatewayError: as `complete`; or the model has no such layer, or the response would have too many values.
        """
        model, checkpoint = self._find_model(body.model, body.state, context.quota.tenant)
        _require_layers(body, model)
        _require_num_top(body, model)
        with TokenCharges(context, "input") as charges:
            prompts = self._encode(
                body.prompts, model, "input", context, charges, checkpoint, reverse=body.go_backwards
            )
            limit, count = self._limits.max_inspect_values, num_values(body, model, prompts[0])
            if count > limit:
                raise InvalidRequest(
                    f"the response may have at most {limit} values (positions × values per position), got {count}; "
                    "request fewer layers or kinds of values, or set max_positions or max_units",
                    param="input",
                )
            _hold_memory(prompts, inspection_bytes(count, prompts[0].num_tokens, body.logprobs, model.card), context)
            # Free the unencoded text.
            body = body.model_copy(update={"input": ""})
            request = self._request(model, prompts, context, body.timeout_s, watch, checkpoint)
            processor = InspectionProcessor(body, request)
            request.admit([(0, 0)])
            request.submit(processor.create)
        return processor

    def _match(self, body: CompletionRequest, request: Request, constraint: Constraint) -> Match:
        """Return a new match, or the one that a checkpoint resumes.

        Raises:
            InvalidRequest: it cannot be compiled, or not completed within `max_tokens`.
            StateRefused: it is resumed, and another release compiled it.
            GatewayError: the client disconnected or the deadline passed, or too many patterns wait.
        """
        model, saved = request.model, request.checkpoint.match if request.checkpoint else None
        # `_constraints` returns that of the checkpoint itself, where it continues.
        resumed = saved if saved and constraint is saved.constraint else None
        fields = ["state"] if resumed else body.constraint_fields
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
        match = Match(automaton, row, is_always_completed=body.complete_within_max_tokens)
        is_limited = body.complete_within_max_tokens and match.is_extensible
        if is_limited and 0 < body.max_tokens < match.num_missing:
            raise InvalidRequest(
                f"max_tokens must be at least {match.num_missing}, the tokens of the shortest match of "
                f"{' and '.join(fields)}, got {body.max_tokens}",
                param="max_tokens",
            )
        return match

    def _copy_filter(self, model: ServedModel) -> IsCopy:
        """Return a function that recognizes copies of a model's training text.

        Raises:
            InvalidRequest: the version has no training filter.
        """
        training_filter = self._training_filters.get(model)
        if training_filter is None:
            raise InvalidRequest(
                f"not_in_training must be false for model {model.ref.name!r}: version {model.ref.version} has no "
                f"training filter; `sostenuto show {model.ref.name}:{model.ref.version}` says why",
                param="not_in_training",
            )
        return training_filter.contains

    def _encode(
        self,
        raw_prompts: tuple[PromptText, ...],
        model: ServedModel,
        field: str,
        context: RequestContext,
        charges: TokenCharges,
        checkpoint: Checkpoint | None = None,
        *,
        reverse: bool = False,
    ) -> list[EncodedPrompt]:
        """Charge and encode prompts, which follow a checkpoint's unread tokens, in the model's direction or reverse."""
        # A minimum before encoding, so that a request beyond the rate limit causes hardly any work.
        charges.charge_prompts(require_encodable(raw_prompts, model, field, self._limits))
        unread = NO_IDS if checkpoint is None else checkpoint.point.unread_ids
        backward = model.backward != reverse
        prompts = encode_prompts(
            raw_prompts, model, field, self._limits, context.memory, after=unread, backward=backward
        )
        charges.charge_prompts(sum(len(prompt.input_ids) for prompt in prompts))
        return prompts

    def _request(
        self,
        model: ServedModel,
        prompts: list[EncodedPrompt],
        context: RequestContext,
        timeout_s: float,
        watch: Watch,
        checkpoint: Checkpoint | None = None,
    ) -> Request:
        request = Request(
            model,
            prompts,
            checkpoint,
            context,
            timeout_s,
            scheduler=self._scheduler,
            admission=self._admission.open(context.quota),
            metrics=self._metrics,
            max_unfinished=self._limits.max_running,
        )
        watch(request)
        return request

    def _find_model(
        self, name: str | None, resume_token: str | None, tenant: str, seed: int | None = None
    ) -> tuple[ServedModel, Checkpoint | None]:
        """Return the version that serves a request, and the checkpoint of its resume token.

        Raises:
            GatewayError: there is no such model, or the resume token is not usable.
        """
        if resume_token is None:
            return self._model_registry.find(name, seed), None
        checkpoint = self._resume_tokens.open(resume_token, tenant)
        requested = checkpoint.model.name if name is None else name
        return self._version_of(checkpoint, self._model_registry.find(requested, seed), requested), checkpoint

    def _version_of(self, checkpoint: Checkpoint, named: ServedModel, requested: str) -> ServedModel:
        """Return the version that took a checkpoint, as no other can resume it.

        Raises:
            StateRefused: the request names another model or version, or the version is no longer served.
        """
        # A name without a version or label leaves the version to the checkpoint.
        if checkpoint.model != named.ref and requested != checkpoint.model.name:
            raise StateRefused(
                f"state must be of model {requested[:64]!r}, which the request names, got one of version "
                f"{checkpoint.model.version} of {checkpoint.model.name!r}",
                "state_of_another_model",
            )
        model = self._model_registry.find_version(checkpoint.model)
        # Another version may have got the number since.
        if model is None or model.card.weights_sha256 != checkpoint.weights_sha256:
            raise StateRefused(
                f"state is of version {checkpoint.model.version} of model {checkpoint.model.name!r}, which is no "
                f"longer served; version {named.ref.version} is. Send the text so far as a prompt instead",
                "state_outdated",
            )
        return model

    def _require_response_fits(self, body: CompletionRequest, prompts: list[EncodedPrompt], field: str) -> None:
        """Refuse a request whose response would have hundreds of megabytes."""
        num_echoed = sum(prompt.num_tokens for prompt in prompts) * body.best_of if body.echo else 0
        limits, num_generated = self._limits, len(prompts) * body.best_of * body.max_tokens
        if num_echoed > limits.max_request_tokens:
            raise InvalidRequest(
                f"echo may repeat at most {limits.max_request_tokens} tokens (of every {field} × n), got {num_echoed}",
                param="echo",
            )
        num_held = sum(len(prompt.input_ids) for prompt in prompts) * body.best_of if body.issues_resume_tokens else 0
        if num_held > limits.max_request_tokens:
            raise InvalidRequest(
                f"resume tokens may contain at most {limits.max_request_tokens} tokens (of every {field} × n, as each "
                f"may contain its whole {field}), got {num_held}",
                param="return_state",
            )
        if body.logprobs is not None and num_echoed + num_generated > limits.max_logprobs_tokens:
            raise InvalidRequest(
                f"logprobs may be returned for at most {limits.max_logprobs_tokens} tokens (of all choices, and of "
                f"every {field} with echo), got {num_echoed + num_generated}",
                param="logprobs",
            )
        num_scored = sum(prompt.num_tokens for prompt in prompts) * body.n
        if body.prompt_logprobs is not None and num_scored > limits.max_logprobs_tokens:
            raise InvalidRequest(
                f"prompt_logprobs may be returned for at most {limits.max_logprobs_tokens} tokens (of every {field} × "
                f"n), got {num_scored}",
                param="prompt_logprobs",
            )


def _constraints(
    body: CompletionRequest, prompts: list[EncodedPrompt], checkpoint: Checkpoint | None
) -> list[Constraint | None]:
    """Return what the choices of each prompt must match.

    A resumed match continues, unless the request has another constraint or a prompt of its own, or repeats that of a
    match that cannot be longer.
    """
    resumed = checkpoint.match if checkpoint else None
    if resumed is None:
        return [body.constraint] * len(prompts)
    repeats = body.constraint == resumed.constraint and resumed.row != signatures.FINAL_ROW
    continues = body.constraint is None or repeats
    return [resumed.constraint if continues and prompt.is_empty else body.constraint for prompt in prompts]


def _hold_memory(prompts: list[EncodedPrompt], num_response_bytes: int, context: RequestContext) -> None:
    """Hold the memory that the request needs from here to its end."""
    num_bytes = sum(prompt.num_bytes for prompt in prompts) + num_response_bytes
    context.memory.hold(num_bytes, "the request and its response")


def _token_texts(model: ServedModel) -> TokenTexts:
    """Return what a model's tokens add to a text.

    Raises:
        PatternError: it depends on more than the token.
    """
    tokenizer, special = model.tokenizer, model.tokenizer.special
    texts = [tokenizer.token_bytes(first=first, backward=model.backward) for first in (True, False)]
    sampled = []
    for tokens in texts:
        if tokens is None:
            raise PatternError(
                f"is not supported for model {model.ref.name!r}: the text of its tokens depends on those beside them"
            )
        textless = {*special.never_sampled, special.end}
        sampled.append(tuple(b"" if i in textless else token for i, token in enumerate(tokens)))
    first, following = sampled
    return TokenTexts(first, following, special.end, model.card.vocab_size, model.backward)


def _require_num_top(body: CompletionRequest | InspectRequest, model: ServedModel) -> None:
    """Refuse more log probabilities than a version returns, unless it returns those of its whole vocabulary."""
    card, version = model.card, model.ref
    for field in ("logprobs", "prompt_logprobs"):
        num_top = getattr(body, field, None) or 0
        if card.num_top < min(num_top, card.vocab_size):
            raise InvalidRequest(
                f"{field} must be at most {card.num_top} for version {version.version} of model {version.name!r}, got "
                f"{num_top}: it was published by an earlier release",
                param=field,
            )


def _require_layers(body: InspectRequest, model: ServedModel) -> None:
    """Refuse an inspection of layers that the model does not have."""
    layers = sorted({trace.layer for trace in model.card.traces})
    unknown = [layer for layer in body.layers or () if layer not in layers]
    if unknown:
        raise InvalidRequest(
            f"layers of model {model.ref.name!r} are {', '.join(map(str, layers))}, got {unknown[0]}", param="layers"
        )


def _input_field(body: CompletionRequest, model: ServedModel) -> tuple[str, tuple[PromptText, ...]]:
    """Return the name and value of the field that a model reads: `prompt`, or `suffix` for a backward model.

    Raises:
        InvalidRequest: the other field is not empty.
    """
    if model.backward:
        read, other, kind = ("suffix", body.suffixes), ("prompt", body.prompts), "backward"
    else:
        read, other, kind = ("prompt", body.prompts), ("suffix", body.suffixes), "forward"
    name, values = other
    if len(values) > 1 or values[0]:
        raise InvalidRequest(
            f"{name} must be empty or absent: {model.ref.name!r} is a {kind} model, which takes {read[0]}",
            param=name,
        )
    return read
