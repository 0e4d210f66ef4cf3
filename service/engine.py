"""The engine turns a parsed request into a running job: it finds the model, charges, encodes and submits.

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
from service.generation.encoding import TokenLimits, encode_prompts, require_encodable, require_ids
from service.generation.inspection import Inspection, num_values, wanted_traces
from service.generation.job import RequestObserver
from service.generation.memory_estimates import completion_bytes, embedding_bytes, inspection_bytes
from service.generation.pooling import Pooling
from service.generation.prompts import NOTHING, EncodedPrompt
from service.generation.resume_tokens import ResumeTokens
from service.memory import MemoryBudget, MemoryLease
from service.scheduling.policy import BatchLimits
from service.scheduling.sequence import ModelVersion, Quota, Sequence

AnyJob = Completion | Pooling | Inspection


class Models(Protocol):
    """The model registry: resolves a model's name to a served version."""

    def find(self, name: str | None, seed: int | None = None) -> ServedModel:
        """Return the version that serves a request, or raise `ModelNotFound` or `ModelLoading`."""

    def find_version(self, ref: ModelVersion) -> ServedModel | None:
        """Return a version, or None if it is not served; raise `ModelLoading` while that is unknown."""


class Runner(Protocol):
    """The scheduler of sequences."""

    def submit(self, groups: Many[Many[Sequence]], batch_limits: BatchLimits) -> None:
        """Admit the sequences of one request, grouped by prompt, or raise `Overloaded`."""

    def cancel(self, sequences: Many[Sequence]) -> None:
        """Remove sequences; finished ones are ignored."""


def _do_nothing() -> None:
    """Charge or refund nothing."""


def _charge_nothing(num_tokens: int, total: int | None = None) -> Callable[[], None]:  # noqa: ARG001 - see `RequestContext`
    """Charge nothing."""
    return _do_nothing


ANYBODY = Quota()


@dataclass(frozen=True)
class RequestContext:
    """The principal of a request, and what the request holds.

    Attributes:
        quota: Limits that its sequences count towards.
        charge_request: Charges one request, before any work on it; raises `RateLimited`.
        charge: Charges tokens that the request may prefill and generate; the second argument is the total known so far,
            if these are not all. Raises `RateLimited`, or returns a function that refunds them.
        trace: The request's tracing context, or None.
        memory: The request's lease of the memory budget.
    """

    quota: Quota = ANYBODY
    charge_request: Callable[[], object] = _do_nothing
    charge: Callable[..., Callable[[], None]] = _charge_nothing
    trace: Any = None
    memory: MemoryLease = field(default_factory=MemoryBudget(2**63).lease)


class Engine:
    """Starts the jobs of requests."""

    def __init__(
        self, models: Models, runner: Runner, listener: RequestObserver, sizes: TokenLimits, resume_tokens: ResumeTokens
    ) -> None:
        self._models, self._runner, self._listener, self._sizes = models, runner, listener, sizes
        self._resume_tokens = resume_tokens

    def begin(self, request: CompletionRequest, caller: RequestContext) -> Completion:
        """Encode the prompts and queue the request.

        Raises:
            GatewayError: the model is not served or has the other direction, a prompt is too long or has unknown ids,
                the resume token is not usable, the response would be too large, or the queue is full.
        """
        tenant = caller.quota.tenant
        model, checkpoint = self._find_model(request.model, request.state, tenant, request.seed)
        if checkpoint is not None and request.seed is None:
            request = replace(request, seed=checkpoint.seed)
        field, raw_prompts = _input_field(request, model)
        require_ids([token_id for token_id, _ in request.sampling.bias], model, "logit_bias")
        unread = NOTHING if checkpoint is None else checkpoint.point.unread_ids
        num_generated = len(raw_prompts) * request.best_of * request.max_tokens
        charged, refund = self._charge_minimum(raw_prompts, model, field, num_generated, caller)
        prompts = encode_prompts(
            raw_prompts, model, field, self._sizes, caller.memory, after=unread, backward=model.backward
        )
        # Free the unencoded prompts.
        request = replace(request, prompts=(), suffixes=())
        self._require_response_fits(request, prompts, field)
        self._hold_memory(prompts, completion_bytes(request, model.card, prompts), caller)
        if model.tokenizer.special.end is None:
            # Without an EOS token there is nothing to suppress.
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
        self._start(generation, caller, charged, refund)
        return generation

    def embed(self, request: EmbeddingsRequest, caller: RequestContext) -> Pooling:
        """Encode the texts and queue their prefill.

        Raises:
            GatewayError: as `begin`.
        """
        model = self._models.find(request.model)
        if request.dimensions not in (None, model.card.units):
            raise InvalidRequest(
                f"dimensions must be {model.card.units}, the width of the model's top layer, got {request.dimensions}",
                param="dimensions",
            )
        charged, refund = self._charge_minimum(request.prompts, model, "input", 0, caller)
        prompts = encode_prompts(request.prompts, model, "input", self._sizes, caller.memory, backward=model.backward)
        self._hold_memory(prompts, embedding_bytes(len(prompts), model.card.units), caller)
        job = Pooling(model, prompts, self._runner, self._listener, request.timeout_s)
        self._start(job, caller, charged, refund)
        return job

    def inspect(self, request: InspectRequest, caller: RequestContext) -> Inspection:
        """Encode a text and queue its inspection.

        Raises:
            GatewayError: as `begin`; or the model has no traces, or the response would have too many values.
        """
        model, checkpoint = self._find_model(request.model, request.state, caller.quota.tenant)
        if not model.card.traces:
            raise InvalidRequest(
                f"version {model.ref.version} of model {model.ref.name!r} cannot be looked into: an earlier release "
                "exported it. Export it again",
                param="model",
            )
        layers = sorted({trace.layer for trace in model.card.traces})
        unknown = [layer for layer in request.layers or () if layer not in layers]
        if unknown:
            raise InvalidRequest(
                f"layers of model {model.ref.name!r} are {', '.join(map(str, layers))}, got {unknown[0]}",
                param="layers",
            )
        unread = NOTHING if checkpoint is None else checkpoint.point.unread_ids
        backward = model.backward != request.go_backwards
        charged, refund = self._charge_minimum((request.given,), model, "input", 0, caller)
        (prompt,) = encode_prompts(
            (request.given,), model, "input", self._sizes, caller.memory, after=unread, backward=backward
        )
        limit, count = self._sizes.max_inspect_values, num_values(request, wanted_traces(request, model), prompt)
        if count > limit:
            raise InvalidRequest(
                f"input × values of each token must be at most {limit} numbers, got {count}; ask for fewer layers, "
                "include less, or set max_positions or max_units",
                param="input",
            )
        self._hold_memory([prompt], inspection_bytes(count, prompt.num_tokens, request.num_top), caller)
        job = Inspection(replace(request, given=""), model, prompt, self._runner, self._listener, checkpoint)
        self._start(job, caller, charged, refund)
        return job

    def _find_model(
        self, name: str | None, state: str | None, tenant: str, seed: int | None = None
    ) -> tuple[ServedModel, Checkpoint | None]:
        """Return the version that serves a request, and the checkpoint of its resume token `state`.

        Raises:
            GatewayError: there is no such model, or the resume token is not usable.
        """
        if state is None:
            return self._models.find(name, seed), None
        checkpoint = self._resume_tokens.open(state, tenant)
        requested = checkpoint.model.name if name is None else name
        return self._version_of(checkpoint, self._models.find(requested, seed), requested), checkpoint

    def _version_of(self, checkpoint: Checkpoint, named: ServedModel, requested: str) -> ServedModel:
        """Return the version that took a checkpoint, as no other can resume it.

        Args:
            checkpoint: The checkpoint.
            named: The version that the request's model name resolves to.
            requested: That name.

        Raises:
            StateOfAnotherModel: the request names another model or version.
            StateOutdated: the version is no longer served.
        """
        # A name without a version or label leaves the version to the checkpoint.
        if checkpoint.model != named.ref and requested != checkpoint.model.name:
            raise StateOfAnotherModel(
                f"state must be of model {requested[:64]!r}, which the request names, got one of version "
                f"{checkpoint.model.version} of {checkpoint.model.name!r}"
            )
        model = self._models.find_version(checkpoint.model)
        # Another version may have got the number since.
        if model is None or model.card.weights_sha256 != checkpoint.weights_sha256:
            raise StateOutdated(
                f"state is of version {checkpoint.model.version} of model {checkpoint.model.name!r}, which is no "
                f"longer served; version {named.ref.version} is. Send the text so far as a prompt instead"
            )
        return model

    def _charge_minimum(
        self,
        raw_prompts: tuple[PromptText, ...],
        model: ServedModel,
        field: str,
        num_generated: int,
        caller: RequestContext,
    ) -> tuple[int, Callable[[], None]]:
        """Refuse prompts that are certainly too long, and charge the minimum number of tokens.

        It happens before encoding, so that no principal causes work beyond its rate limit.

        Returns:
            The number of tokens charged, and a function that refunds them.
        """
        charged = require_encodable(raw_prompts, model, field, self._sizes) + num_generated
        return charged, caller.charge(charged)

    @staticmethod
    def _hold_memory(prompts: list[EncodedPrompt], num_response_bytes: int, caller: RequestContext) -> None:
        """Hold the memory that the request needs from here to its end."""
        num_bytes = sum(prompt.num_bytes for prompt in prompts) + num_response_bytes
        caller.memory.hold(num_bytes, "the request and its response")

    def _require_response_fits(self, request: CompletionRequest, prompts: list[EncodedPrompt], field: str) -> None:
        """Refuse a request whose response would have hundreds of megabytes.

        Raises:
            InvalidRequest: it would.
        """
        num_echoed = sum(prompt.num_tokens for prompt in prompts) * request.best_of if request.echo else 0
        sizes, num_generated = self._sizes, len(prompts) * request.best_of * request.max_tokens
        if num_echoed > sizes.max_echo_tokens:
            raise InvalidRequest(
                f"echo may repeat at most {sizes.max_echo_tokens} tokens (of every {field} × n), got {num_echoed}",
                param="echo",
            )
        num_carried = sum(len(prompt.read_ids) for prompt in prompts) * request.best_of if request.returns_states else 0
        if num_carried > sizes.max_echo_tokens:
            raise InvalidRequest(
                f"states may carry at most {sizes.max_echo_tokens} tokens (of every {field} × n), as one may "
                f"have to hold all of its {field}, got {num_carried}",
                param="return_state",
            )
        if request.num_top is not None and num_echoed + num_generated > sizes.max_logprobs_tokens:
            raise InvalidRequest(
                f"logprobs may be told of at most {sizes.max_logprobs_tokens} tokens (of all texts, and of every "
                f"{field} with echo), got {num_echoed + num_generated}",
                param="logprobs",
            )

    def _start(self, job: AnyJob, caller: RequestContext, charged: int, refund: Callable[[], None]) -> None:
        """Charge the rest of a job's tokens and submit it; refund all of them if it is refused."""
        groups = [group for index in range(len(job.prompts)) if (group := self._group(job, index, caller))]
        job.begin(sequence for group in groups for sequence in group)
        num_tokens = sum(len(prompt.read_ids) for prompt in job.prompts)
        total = num_tokens + sum(sequence.max_tokens for sequence in job.sequences.values())
        # For character tokenizers and token ids the first charge was exact.
        refund_rest = caller.charge(total - charged, total) if total > charged else _do_nothing
        if groups:
            try:
                self._runner.submit(groups, job.model.batch_limits)
            except GatewayError:
                refund()
                refund_rest()
                raise

    def _group(self, job: AnyJob, prompt_index: int, caller: RequestContext) -> list[Sequence]:
        """Return the sequences that a prompt needs."""
        prompt, prefill_signature, card = job.prompts[prompt_index], job.prefill_signature(prompt_index), job.model.card
        indexes = job.choices(prompt_index)
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
                cache_namespace=(caller.quota.tenant, job.model.ref, job.model.fingerprint, job.origin),
                prefill_signature=prefill_signature,
                trace=caller.trace,
                hidden_sum=np.zeros(card.units, np.float32) if prefill_signature == signatures.EMBED else None,
                **job.options,
            )
            for index in indexes
        ]


def _input_field(request: CompletionRequest, model: ServedModel) -> tuple[str, tuple[PromptText, ...]]:
    """Return the name and value of the field that a model reads: `prompt`, or `suffix` for a backward model.

    Raises:
        InvalidRequest: the other field is not empty.
    """
    if model.backward:
        read, other, way, what = ("suffix", request.suffixes), ("prompt", request.prompts), "backwards", "the ending"
    else:
        read, other, way, what = ("prompt", request.prompts), ("suffix", request.suffixes), "forwards", "the beginning"
    name, values = other
    if len(values) > 1 or values[0]:
        raise InvalidRequest(
            f"{name} must be empty or absent: model {model.ref.name!r} reads {way}, and {what} of a text goes into "
            f"{read[0]}",
            param=name,
        )
    return read
