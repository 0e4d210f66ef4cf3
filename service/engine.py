"""From a valid request to a job that is computed: find the model, encode, charge, schedule.

Knows tokenizers and sequences. Does not know HTTP, and does not compute.
"""

from collections.abc import Callable
from collections.abc import Sequence as Many
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import numpy as np

from contract import signatures
from service.api.parameters import CompletionRequest, EmbeddingsRequest, InspectRequest, PromptText
from service.backends.registry import ServedModel
from service.errors import GatewayError, InvalidRequest, StateOfAnotherModel, StateOutdated
from service.generation.checkpoint import Checkpoint
from service.generation.completion import Completion
from service.generation.encoding import Sizes, encode_prompts, require_encodable, require_ids
from service.generation.inspection import Inspection, num_values, wanted_traces
from service.generation.job import Listener
from service.generation.memory_estimates import completion_bytes, embedding_bytes, inspection_bytes
from service.generation.pooling import Pooling
from service.generation.prompts import NOTHING, EncodedPrompt
from service.generation.resume_tokens import ResumeTokens
from service.memory import MemoryBudget, MemoryLease
from service.scheduling.policy import BatchLimits
from service.scheduling.sequence import ModelVersion, Quota, Sequence

AnyJob = Completion | Pooling | Inspection


class Models(Protocol):
    """Where a model's name becomes a version that answers."""

    def find(self, name: str | None, seed: int | None = None) -> ServedModel:
        """Return the version that answers a request, or raise `ModelNotFound` or `ModelLoading`."""

    def find_version(self, ref: ModelVersion) -> ServedModel | None:
        """Return a version, if it lives; raise `ModelLoading` while it is not known whether it does."""


class Runner(Protocol):
    """What computes sequences."""

    def submit(self, groups: Many[Many[Sequence]], batch_limits: BatchLimits) -> None:
        """Accept the sequences of one request, grouped by prompt, or raise `Overloaded`."""

    def cancel(self, sequences: Many[Sequence]) -> None:
        """Forget sequences; ended ones are left alone."""


def _nothing() -> None:
    """Give nothing back, as nothing was charged."""


def _charge_nothing(num_tokens: int, total: int | None = None) -> Callable[[], None]:  # noqa: ARG001 - see `RequestContext`
    """Charge nothing."""
    return _nothing


ANYBODY = Quota()


@dataclass(frozen=True)
class RequestContext:
    """Who asks.

    Attributes:
        quota: What the texts are counted for.
        charge_request: Charges one request, before anything is done for it; raises `RateLimited`.
        charge: Charges tokens that the request may read and generate, the second argument being all that are known to
            be charged for it if these are not all; raises `RateLimited`, or returns what gives them back.
        trace: What the tracing keeps of the request, or None.
        memory: What the request holds of the budget for memory.
    """

    quota: Quota = ANYBODY
    charge_request: Callable[[], object] = _nothing
    charge: Callable[..., Callable[[], None]] = _charge_nothing
    trace: Any = None
    memory: MemoryLease = field(default_factory=MemoryBudget(2**63).lease)


class Engine:
    """Starts jobs."""

    def __init__(
        self, models: Models, runner: Runner, listener: Listener, sizes: Sizes, resume_tokens: ResumeTokens
    ) -> None:
        self._models, self._runner, self._listener, self._sizes = models, runner, listener, sizes
        self._resume_tokens = resume_tokens

    def begin(self, request: CompletionRequest, caller: RequestContext) -> Completion:
        """Encode the prompts and queue the request.

        Raises:
            GatewayError: the model is not served or reads from the other end, a prompt is too long or has ids that the
                model does not, the state cannot be gone on with, the answer would be too large, or the queue is full.
        """
        tenant = caller.quota.tenant
        model, checkpoint = self._find(request.model, request.state, tenant, request.seed)
        if checkpoint is not None and request.seed is None:
            request = replace(request, seed=checkpoint.seed)
        field, given = _to_read(request, model)
        require_ids([token_id for token_id, _ in request.sampling.bias], model, "logit_bias")
        unread = NOTHING if checkpoint is None else checkpoint.point.unread
        num_generated = len(given) * request.best_of * request.max_tokens
        charged, give_back = self._charge_least(given, model, field, num_generated, caller)
        prompts = encode_prompts(given, model, field, self._sizes, caller.memory, after=unread, backward=model.backward)
        # Held by nobody from here on: what is read are the encoded ones.
        request = replace(request, prompts=(), suffixes=())
        self._require_answer_fits(request, prompts, field)
        self._hold(prompts, completion_bytes(request, model.card, prompts), caller)
        if model.tokenizer.special.end is None:
            # Texts without an end: nothing that could be put off.
            request = replace(request, sampling=replace(request.sampling, min_tokens=0))
        generation = Completion(
            request,
            model,
            prompts,
            self._runner,
            self._listener,
            seal=partial(self._resume_tokens.seal, tenant=tenant),
            checkpoint=checkpoint,
        )
        self._start(generation, caller, charged, give_back)
        return generation

    def embed(self, request: EmbeddingsRequest, caller: RequestContext) -> Pooling:
        """Encode the texts and queue them to be read.

        Raises:
            GatewayError: as `begin`.
        """
        model = self._models.find(request.model)
        if request.dimensions not in (None, model.card.units):
            raise InvalidRequest(
                f"dimensions must be {model.card.units}, the width of the model's top layer, got {request.dimensions}",
                param="dimensions",
            )
        charged, give_back = self._charge_least(request.prompts, model, "input", 0, caller)
        prompts = encode_prompts(request.prompts, model, "input", self._sizes, caller.memory, backward=model.backward)
        self._hold(prompts, embedding_bytes(len(prompts), model.card.units), caller)
        job = Pooling(model, prompts, self._runner, self._listener, request.timeout_s)
        self._start(job, caller, charged, give_back)
        return job

    def inspect(self, request: InspectRequest, caller: RequestContext) -> Inspection:
        """Encode a text and queue it to be looked into.

        Raises:
            GatewayError: as `begin`; or nothing can be told of the model, or there would be too much to tell.
        """
        model, checkpoint = self._find(request.model, request.state, caller.quota.tenant)
        if not model.card.traces:
            raise InvalidRequest(
                f"version {model.ref.version} of model {model.ref.name!r} cannot be looked into: an earlier release "
                "exported it. Export it again",
                param="model",
            )
        known = sorted({trace.layer for trace in model.card.traces})
        unknown = [layer for layer in request.layers or () if layer not in known]
        if unknown:
            raise InvalidRequest(
                f"layers of model {model.ref.name!r} are {', '.join(map(str, known))}, got {unknown[0]}", param="layers"
            )
        unread = NOTHING if checkpoint is None else checkpoint.point.unread
        backward = model.backward != request.go_backwards
        charged, give_back = self._charge_least((request.given,), model, "input", 0, caller)
        (prompt,) = encode_prompts(
            (request.given,), model, "input", self._sizes, caller.memory, after=unread, backward=backward
        )
        bound, count = self._sizes.max_inspect_values, num_values(request, wanted_traces(request, model), prompt)
        if count > bound:
            raise InvalidRequest(
                f"input × values of each token must be at most {bound} numbers, got {count}; ask for fewer layers, "
                "include less, or set max_positions or max_units",
                param="input",
            )
        self._hold([prompt], inspection_bytes(count, prompt.num_tokens, request.num_top), caller)
        job = Inspection(replace(request, given=""), model, prompt, self._runner, self._listener, checkpoint)
        self._start(job, caller, charged, give_back)
        return job

    def _find(
        self, name: str | None, state: str | None, tenant: str, seed: int | None = None
    ) -> tuple[ServedModel, Checkpoint | None]:
        """Return the version that answers, and the text that a state stands for.

        Raises:
            GatewayError: there is no such model, or the state cannot be gone on with.
        """
        if state is None:
            return self._models.find(name, seed), None
        checkpoint = self._resume_tokens.open(state, tenant)
        asked = checkpoint.model.name if name is None else name
        return self._version_of(checkpoint, self._models.find(asked, seed), asked), checkpoint

    def _version_of(self, checkpoint: Checkpoint, found: ServedModel, asked: str) -> ServedModel:
        """Return the version that a text is of: it goes on with no other.

        Raises:
            StateOfAnotherModel: it is not of the model that the request names.
            StateOutdated: that version is no longer served.
        """
        # A request that names the model alone leaves the version to the state.
        if checkpoint.model != found.ref and asked != checkpoint.model.name:
            raise StateOfAnotherModel(
                f"state must be of model {asked[:64]!r}, which the request names, got one of version "
                f"{checkpoint.model.version} of {checkpoint.model.name!r}"
            )
        model = self._models.find_version(checkpoint.model)
        # A number may have been given to another version since.
        if model is None or model.card.weights_sha256 != checkpoint.weights_sha256:
            raise StateOutdated(
                f"state is of version {checkpoint.model.version} of model {checkpoint.model.name!r}, which is no "
                f"longer served; version {found.ref.version} is. Send the text so far as a prompt instead"
            )
        return model

    def _charge_least(
        self, given: tuple[PromptText, ...], model: ServedModel, field: str, num_generated: int, caller: RequestContext
    ) -> tuple[int, Callable[[], None]]:
        """Refuse prompts that cannot be short enough, and charge the tokens that they have at least.

        Before anything is encoded, so that no caller has work done beyond the rate limit.

        Returns:
            The tokens charged, and what gives them back.
        """
        charged = require_encodable(given, model, field, self._sizes) + num_generated
        return charged, caller.charge(charged)

    @staticmethod
    def _hold(prompts: list[EncodedPrompt], num_response_bytes: int, caller: RequestContext) -> None:
        """Hold the memory that the request takes from here to its end."""
        num_bytes = sum(prompt.num_bytes for prompt in prompts) + num_response_bytes
        caller.memory.hold(num_bytes, "the request and its response")

    def _require_answer_fits(self, request: CompletionRequest, prompts: list[EncodedPrompt], field: str) -> None:
        """Refuse what would be an answer of hundreds of megabytes.

        Raises:
            InvalidRequest: it would.
        """
        echoed = sum(prompt.num_tokens for prompt in prompts) * request.best_of if request.echo else 0
        sizes, written = self._sizes, len(prompts) * request.best_of * request.max_tokens
        if echoed > sizes.max_echo_tokens:
            raise InvalidRequest(
                f"echo may repeat at most {sizes.max_echo_tokens} tokens (of every {field} × n), got {echoed}",
                param="echo",
            )
        carried = sum(len(prompt.read_ids) for prompt in prompts) * request.best_of if request.returns_states else 0
        if carried > sizes.max_echo_tokens:
            raise InvalidRequest(
                f"states may carry at most {sizes.max_echo_tokens} tokens (of every {field} × n), as one may "
                f"have to hold all of its {field}, got {carried}",
                param="return_state",
            )
        if request.num_top is not None and echoed + written > sizes.max_logprobs_tokens:
            raise InvalidRequest(
                f"logprobs may be told of at most {sizes.max_logprobs_tokens} tokens (of all texts, and of every "
                f"{field} with echo), got {echoed + written}",
                param="logprobs",
            )

    def _start(self, job: AnyJob, caller: RequestContext, charged: int, give_back: Callable[[], None]) -> None:
        """Charge the rest of a job's tokens and queue it; the tokens of one that the queue refuses are given back."""
        groups = [group for place in range(len(job.prompts)) if (group := self._group(job, place, caller))]
        job.begin(sequence for group in groups for sequence in group)
        num_tokens = sum(len(prompt.read_ids) for prompt in job.prompts)
        total = num_tokens + sum(sequence.max_tokens for sequence in job.sequences.values())
        # Of characters and ids the first charge was exact.
        give_back_rest = caller.charge(total - charged, total) if total > charged else _nothing
        if groups:
            try:
                self._runner.submit(groups, job.model.batch_limits)
            except GatewayError:
                give_back()
                give_back_rest()
                raise

    def _group(self, job: AnyJob, place: int, caller: RequestContext) -> list[Sequence]:
        """Make the sequences that a prompt needs."""
        prompt, prefill_signature, card = job.prompts[place], job.prefill_signature(place), job.model.card
        indexes = job.choices(place)
        return [
            Sequence(
                model=job.model.ref,
                prompt_ids=prompt.read_ids,
                seen_ids=prompt.seen_ids if job.options["sampling"].repetition_penalty != 1 else NOTHING,
                end_id=job.model.tokenizer.special.end,
                vocab_size=card.vocab_size,
                emit=job.put,
                state=job.beginning,
                index=index,
                stream=job.stream_of(index),
                quota=caller.quota,
                expected_probe_hash=job.model.expected_probe_hash,
                scope=(caller.quota.tenant, job.model.ref, job.model.fingerprint, job.origin),
                prefill_signature=prefill_signature,
                trace=caller.trace,
                hidden_sum=np.zeros(card.units, np.float32) if prefill_signature == signatures.EMBED else None,
                **job.options,
            )
            for index in indexes
        ]


def _to_read(request: CompletionRequest, model: ServedModel) -> tuple[str, tuple[PromptText, ...]]:
    """Return what a model reads, and the name of its field: the prompt, or the suffix if it reads backwards.

    Raises:
        InvalidRequest: the other field is not empty.
    """
    if model.backward:
        read, other, way, what = ("suffix", request.suffixes), ("prompt", request.prompts), "backwards", "the ending"
    else:
        read, other, way, what = ("prompt", request.prompts), ("suffix", request.suffixes), "forwards", "the beginning"
    name, given = other
    if len(given) > 1 or given[0]:
        raise InvalidRequest(
            f"{name} must be empty or absent: model {model.ref.name!r} reads {way}, and {what} of a text goes into "
            f"{read[0]}",
            param=name,
        )
    return read
