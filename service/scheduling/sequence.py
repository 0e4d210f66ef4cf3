"""A sequence: one continuation that is being generated, with its prompt, progress and model state; and its results."""

from collections import abc
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any, Literal

import numpy as np

from contract import signatures
from service.errors import GatewayError
from service.scheduling.prefix_cache import Prefix
from service.scheduling.sampling_inputs import Adjustments, Match, SamplingParams, uniforms

FinishReason = Literal["stop", "length"]
# A prompt's number within its request, and a choice's number among those of the prompt.
ChoiceIndex = tuple[int, int]
# The signature of decode calls, and whether they have a single step, so that interventions change the state in between.
DecodeKind = tuple[str, bool]
_DEFAULTS = SamplingParams()
# Uniforms that a sequence generates at once, as fewer cost as much.
UNIFORMS_AHEAD = 256
# Token ids are int32.
MAX_VOCAB_SIZE = 2**31
# Far beyond saturation of a gate; without a limit, a cell that is scaled at each step overflows within 130 steps.
MAX_STATE_VALUE = 1000.0


@dataclass(frozen=True)
class ModelVersion:
    """A version of a model: its name and number."""

    name: str
    number: int


@dataclass(frozen=True, eq=False)
class Interventions:
    """Changes of a state before each decode step: a value becomes `scale` × value + `offset`.

    It is limited to ±`MAX_STATE_VALUE`.

    Attributes:
        indexes: int64 (N,): unique positions in the state.
        scale: float32 (N,); 0 replaces the value.
        offset: float32 (N,).
    """

    indexes: np.ndarray
    scale: np.ndarray
    offset: np.ndarray

    def apply(self, state: np.ndarray) -> None:
        """Change a state, float32 (S,), in place."""
        state[self.indexes] = np.clip(state[self.indexes] * self.scale + self.offset, -MAX_STATE_VALUE, MAX_STATE_VALUE)


@dataclass(frozen=True, eq=False)
class Scores:
    """Logprobs of tokens, from the model's distribution before temperature and filters."""

    logprobs: np.ndarray  # float32 (tokens,), of each token itself
    # int32 (tokens, `num_top` of the card): the most probable tokens at its position; None if not requested.
    top_ids: np.ndarray | None = None
    top_logprobs: np.ndarray | None = None  # float32, of the same shape, descending


@dataclass(eq=False, slots=True)
class Result:
    """What one call computed for one sequence, or the error that ended it."""

    index: ChoiceIndex  # that of the sequence in its request
    num_remaining_prompt_tokens: int = 0  # see `Sequence`
    # Tokens that a decode call sampled, at least one, in order; the EOS token, if it was sampled, is the last.
    sampled_ids: list[int] = field(default_factory=list)
    has_eos: bool = False  # whether the last sampled token is the EOS token
    finish_reason: FinishReason | None = None  # "stop" or "length" with the last result
    # Scores of those tokens, or of the prompt's tokens after the first that the call read; None if not requested.
    scores: Scores | None = None
    state: np.ndarray | None = None  # float32 (S,), after all tokens but the last sampled one; None if not requested
    # float32 (U,): sum of the top layer's outputs over all tokens prefilled so far; of "embed".
    hidden_sum: np.ndarray | None = None
    hidden_last: np.ndarray | None = None  # float32 (U,): the top layer's output after the last of them; of "embed"
    # By name, float32 (tokens, units), of the tokens that the call read; of "inspect".
    activations: Mapping[str, np.ndarray] | None = None
    # For a step of a search: float32 (E, V), log probabilities of every token after each of its prefixes and of their
    # expanded continuations; `state` is (prefixes, S).
    next_logprobs: np.ndarray | None = None
    # (parent, token) of each of the E; the parent, to which the token was appended, is -1 for the step's own prefixes
    # and where nothing was appended.
    appended: list[tuple[int, int]] = field(default_factory=list)
    is_reproducible: bool = True  # see `Sequence`
    error: GatewayError | None = None  # ends the sequence

    @property
    def token_ids(self) -> list[int]:
        """The sampled tokens without the EOS token."""
        return self.sampled_ids[:-1] if self.has_eos else self.sampled_ids

    @property
    def is_prefilled(self) -> bool:
        return self.num_remaining_prompt_tokens == 0


class Status(IntEnum):
    """State of a sequence; only the scheduler's thread changes it.

    WAITING for its first slot or for the prefill of its prompt; RUNNING in a slot; PREEMPTED, or forked: waiting for a
    slot with a state to continue from; FINISHED with or without an error; CANCELLED by its request, and removed as soon
    as it is not in a call.
    """

    WAITING = 0
    RUNNING = 1
    PREEMPTED = 2
    FINISHED = 3
    CANCELLED = 4


@dataclass(frozen=True, eq=False)
class SearchStep:
    """Further inputs of a search step, besides the last tokens of its prefixes; see `next_logprobs` in the exporter."""

    num_ahead: int = 0  # most probable prefixes to expand ahead, in steps of one for each slot
    logprobs: tuple[float, ...] = (0.0,)
    matches: tuple[Match | None, ...] = (None,)  # no token is appended to a complete one
    unread: tuple[abc.Sequence[int], ...] = ((),)  # tokens after each state and before the last token


@dataclass(eq=False, slots=True)
class Sequence:
    """One choice of one prompt of one request; its model never changes."""

    version: ModelVersion
    # int32 (tokens,), at least one; the last is the first input of `decode`. For a step of a search: tokens that each
    # follow their own state.
    prompt_ids: np.ndarray
    state: np.ndarray  # float32 (S,), after the tokens that the model has processed; float32 (tokens, S) of such a step
    deliver: Callable[[Result], object]  # gets the results of its calls, in order; must not block the scheduler
    max_tokens: int = 0
    end_id: int | None = None  # the EOS token, or None
    sampling: SamplingParams = _DEFAULTS
    seed: int = 0
    # Second half of the random key, beside the seed: the choice's index, or a checkpoint's stream.
    random_stream: int = 0
    # int32 (ids,): unique ids of the prompt; empty where no penalty needs them.
    seen_ids: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    index: ChoiceIndex = (0, 0)
    # Exclusive upper limit of the model's token ids; a backend's samples are checked against it.
    vocab_size: int = MAX_VOCAB_SIZE
    # Releases its admission, on the scheduler's thread, once it has finished.
    release: Callable[[], object] = lambda: None
    prefill_signature: str = signatures.PREFILL  # "prefill", "score", "embed", "inspect" or "next_logprobs"
    requested_activations: tuple[tuple[str, int], ...] = ()  # those that "inspect" returns, as (name, width)
    num_sampled_before: int = 0  # tokens sampled by the requests that it resumes: the index of its first random number
    counts_before: Mapping[int, int] | None = None  # how often each was sampled; see `Adjustments`
    returns_state: bool = False  # whether its results carry the state
    num_top: int | None = None  # requested top logprobs per sampled token; None: not even its own logprob
    num_top_outputs: int = signatures.NUM_TOP  # top logprobs per token that its version returns
    # Requested top logprobs per prompt token, for "score"; "inspect" always returns `num_top_outputs`.
    prompt_num_top: int = 0
    search: SearchStep = SearchStep()  # of "next_logprobs"
    match: Match | None = None  # its match of the pattern that constrains it; None: any token may be sampled
    interventions: Interventions | None = None  # applied to the state before each token that it generates
    trace: Any = None  # the tracing context of its request
    # float32 (U,), for "embed": see `Result`.
    hidden_sum: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    expected_probe_hash: str | None = None  # probe hash that its model's fingerprint stands for; None if there is none
    cache_namespace: Hashable = None  # namespace of the prefix cache, see `Prefix`; None: no caching
    prefix_blocks: tuple[bytes, ...] = ()  # `block_hashes` of the prompt in that namespace
    request_number: int = 0  # its request, in order of arrival
    status: Status = Status.WAITING
    # Choices with the same prompt, which fork from this one after prefill.
    forks: list["Sequence"] = field(default_factory=list)
    num_prefilled: int = 0  # prompt tokens prefilled
    num_cached_tokens: int = 0  # those of them from a prefix cache hit; 0 for forks
    prefix: Prefix | None = None  # the tokens behind `state`; None: no caching
    num_generated: int = 0
    last_token_id: int = 0  # the newest token, not yet processed by the model
    accepted_at: float = 0.0  # monotonic seconds
    is_reproducible: bool = True  # whether all its calls ran on backends with the expected probe hash
    # Uniforms that were generated ahead, float32, from a position on.
    _uniforms: np.ndarray = field(init=False, default_factory=lambda: np.zeros(0, np.float32))
    _uniforms_from: int = 0
    adjustments: Adjustments = field(init=False)
    decode_kind: DecodeKind = field(init=False)  # only sequences of one kind share a call

    def __post_init__(self) -> None:
        self.last_token_id = int(self.prompt_ids[-1])
        sampling = self.sampling
        counts, sampled = sampling.counts_tokens, self.counts_before
        self.adjustments = Adjustments(sampling.bias, self.seen_ids, counts=counts, sampled=sampled if counts else None)
        is_full = self.num_top or self.match is not None or sampling.adjusts
        signature = signatures.DECODE_FULL if is_full else signatures.DECODE
        self.decode_kind = signature, self.interventions is not None

    @property
    def num_remaining_prompt_tokens(self) -> int:
        """Prompt tokens still to be prefilled; `prefill` and `score` leave the last token to `decode`, as its input."""
        leaves_last = self.prefill_signature in (signatures.PREFILL, signatures.SCORE)
        return len(self.prompt_ids) - leaves_last - self.num_prefilled

    @property
    def is_search_step(self) -> bool:
        """Whether it is a step of a search: one of many, so that no other request is expected after it.

        It has its calls for itself.
        """
        return self.prefill_signature == signatures.NEXT_LOGPROBS

    @property
    def next_prefill(self) -> tuple[str, int]:
        """Signature and prompt tokens of its next prefill call: the last token alone predicts the next."""
        count = self.num_remaining_prompt_tokens
        if self.is_search_step and count > 1 and self.state.ndim == 1:
            return signatures.PREFILL, count - 1
        return self.prefill_signature, count

    def uniforms(self, count: int) -> np.ndarray:
        """Return the random numbers of the next tokens, float32 (count,)."""
        position = self.num_sampled_before + self.num_generated
        offset = position - self._uniforms_from
        if offset < 0 or offset + count > self._uniforms.size:
            self._uniforms_from, offset = position, 0
            self._uniforms = uniforms(self.seed, self.random_stream, position, max(count, UNIFORMS_AHEAD))
        return self._uniforms[offset : offset + count]

    @property
    def state_snapshot(self) -> np.ndarray | None:
        """The state for a result, if requested: a copy, as a view would keep all outputs of its call alive."""
        return self.state.copy() if self.returns_state else None

    @property
    def num_left(self) -> int:
        """Tokens that may still be sampled."""
        return self.max_tokens - self.num_generated

    @property
    def is_complete(self) -> bool:
        """Whether both prefill and decode are complete."""
        return self.num_remaining_prompt_tokens == 0 and self.finish_reason is not None

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why decoding has ended, None while it continues; "length" also if a longer match does not fit."""
        match_ended = self.match is not None and self.match.has_ended
        is_whole = self.match is not None and not self.match.is_extensible
        if (self.num_generated and self.last_token_id == self.end_id) or (match_ended and is_whole):
            return "stop"
        return "length" if match_ended or not self.num_left else None

    def fork_from(self, first: "Sequence") -> None:
        """Start from the state of another choice of the same prompt, after its prefill."""
        self.num_prefilled, self.state, self.is_reproducible = first.num_prefilled, first.state, first.is_reproducible
        self.status = Status.PREEMPTED
        self.prefix = replace(first.prefix) if first.prefix else None

    def record_prefill(self, count: int, state: np.ndarray) -> None:
        if self.prefix is not None:
            self.prefix.extend(self.prompt_ids[self.num_prefilled : self.num_prefilled + count])
        self.num_prefilled += count
        self.state = state

    def truncate(self, token_ids: list[int]) -> list[int]:
        """Truncate sampled tokens at `max_tokens`, after the EOS token and at the end of the match, which advances."""
        token_ids = token_ids[: self.num_left]
        if self.end_id in token_ids:
            token_ids = token_ids[: token_ids.index(self.end_id) + 1]
        if self.match is not None:
            return token_ids[: self.match.advance(token_ids)]
        return token_ids

    def advance(self, sampled_ids: list[int], state: np.ndarray, scores: Scores | None = None) -> Result:
        """Record sampled tokens that `truncate` returned, at least one, and return the result to deliver."""
        self.num_generated += len(sampled_ids)
        if self.prefix is not None:
            self.prefix.extend([self.last_token_id, *sampled_ids[:-1]])
        self.state, self.last_token_id = state, sampled_ids[-1]
        self.adjustments.note(sampled_ids)
        return Result(
            self.index,
            sampled_ids=sampled_ids,
            has_eos=self.last_token_id == self.end_id,
            finish_reason=self.finish_reason,
            scores=scores,
            state=self.state_snapshot,
            is_reproducible=self.is_reproducible,
        )
