"""One text in the making: what was read, what was drawn, and the row of floats that is the model's memory of it.

Knows ids, counts and its own state. Does not know text, other sequences or where it is computed.
"""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from contract import signatures
from service.errors import GatewayError
from service.scheduling.penalties import Adjustments
from service.scheduling.prefix_cache import Prefix
from service.scheduling.random_numbers import UniformStream

FinishReason = Literal["stop", "length"]
# Token ids are int32.
MAX_VOCAB_SIZE = 2**31


@dataclass(frozen=True)
class ModelVersion:
    """A concrete version on the model server."""

    name: str
    version: int


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are drawn; see `export.graphs.sampling.Controls` and `signatures` there for the meaning of each.

    Attributes:
        top_k: 0 is off.
        top_p: 1 is off.
        min_p: 0 is off.
        presence_penalty: 0 is off.
        frequency_penalty: 0 is off.
        repetition_penalty: 1 is off.
        bias: (token id, what is added to its logit), each id once.
        min_tokens: The end mark is not drawn among the first so many tokens.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    bias: tuple[tuple[int, float], ...] = ()
    min_tokens: int = 0

    @property
    def counts_tokens(self) -> bool:
        """Whether what was read and drawn changes what is drawn next, beyond the model."""
        return bool(self.presence_penalty or self.frequency_penalty) or self.repetition_penalty != 1

    @property
    def adjusts(self) -> bool:
        """Whether logits are changed before they are drawn from."""
        return self.counts_tokens or any(value for _, value in self.bias) or self.min_tokens > 0


@dataclass(frozen=True)
class Quota:
    """Whom a text is counted for.

    Attributes:
        name: Of the key, or "" where there are no keys.
        max_sequences: Texts accepted and not ended at once; None: as many as the server takes.
        max_queued_tokens: Tokens that those may still read and write; None: as many as the server takes.
        tenant: Whose key it is, or "".
    """

    name: str = ""
    max_sequences: int | None = None
    max_queued_tokens: int | None = None
    tenant: str = ""


@dataclass(frozen=True, eq=False)
class Scores:
    """How probable the model found some tokens, by its own distribution before temperature and filters.

    Attributes:
        logprobs: float32 (tokens,), of each token itself.
        top_ids: int32 (tokens, 5): the most probable ones in its place; None if they were not asked for.
        top_logprobs: float32 (tokens, 5), descending.
    """

    logprobs: np.ndarray
    top_ids: np.ndarray | None = None
    top_logprobs: np.ndarray | None = None


@dataclass(frozen=True)
class Chunk:
    """Tokens that one call drew for one sequence.

    Attributes:
        index: Of the sequence within its request.
        token_ids: In order; the end mark is not among them.
        finish_reason: "stop" or "length" with the last chunk, else None.
        scores: Of those tokens, if they were asked for.
        state: float32 (S,), when all but the last drawn token were read, the end mark included; None: nobody asked.
    """

    index: int
    token_ids: list[int]
    finish_reason: FinishReason | None = None
    scores: Scores | None = None
    state: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Read:
    """What a call learnt while it read some of a prompt.

    Attributes:
        index: Of the sequence within its request.
        num_remaining_prompt_tokens: Prompt tokens that are still to be read; see `Sequence`.
        scores: Of the tokens after the first, for a sequence that asked for them.
        hidden_sum: float32 (U,): the top layer's outputs over all tokens read so far, added up.
        hidden_last: float32 (U,): the top layer's output after the last of them.
        state: float32 (S,), after them; None: nobody asked.
        told: By name, float32 (tokens, units): what went on at each of the tokens that were read.
    """

    index: int
    num_remaining_prompt_tokens: int
    scores: Scores | None = None
    hidden_sum: np.ndarray | None = None
    hidden_last: np.ndarray | None = None
    state: np.ndarray | None = None
    told: Mapping[str, np.ndarray] | None = None

    @property
    def last(self) -> bool:
        """Whether the prompt is read now."""
        return self.num_remaining_prompt_tokens == 0


@dataclass(frozen=True)
class Failure:
    """The sequence cannot go on; nothing comes after this."""

    index: int
    error: GatewayError


Event = Chunk | Read | Failure


@dataclass(eq=False, slots=True)
class Sequence:
    """One choice of one prompt of one request.

    Attributes:
        model: The version that it stays on.
        prompt_ids: int32 (tokens,), at least one; the last is the first that `decode` reads.
        seen_ids: int32 (ids,): those of the prompt, each once; none where it does not matter.
        stream: With the seed, the key of its random numbers: its index within its prompt, if it goes on with nothing.
        position: Of its first random number: tokens drawn before, by requests that it goes on with.
        index: Within its request.
        end_id: The end mark, or None.
        vocab_size: Its model's token ids are below this; what a backend samples is checked against it.
        emit: Takes each event, in order; called on the scheduler's thread and must not block.
        prefill_signature: The signature by which the prompt is read: "prefill", "score", "embed" or "inspect".
        tells: Outputs of "inspect" that are wanted, and the width of each.
        counts_before: Counts of those tokens, as `Adjustments` takes them.
        returns_state: Whether its events are to tell the state.
        num_top: Most probable tokens wanted beside each drawn one; None: not even the log probability of that one.
        trace: What the tracing keeps of its request.
        expected_probe_hash: Hash of the probe that its model's fingerprint stands for; None: of none.
        scope: Where a beginning that was read before may be taken from; see `Prefix`. None: nowhere.
        prefix_blocks: Hashes of the prompt's blocks in that namespace; see `block_hashes`.
        request: Number of its request, in order of arrival.
        started: Whether it has held a slot.
        forks: Choices with the same prompt, which start from this one's state once it is read.
        state: float32 (S,) after the tokens read so far.
        hidden_sum: float32 (U,), for "embed": see `Read`.
        num_read: Prompt tokens read.
        num_cached_tokens: Of those, the first ones that needed no reading, as their state was known; 0 for forks.
        prefix: Names what `state` has read; None: nobody wants to know.
        last_token_id: The newest token, not yet read by the model.
        num_generated: Tokens drawn so far.
        accepted_at: Monotonic seconds.
        cost: Tokens that it is counted with while it is accepted.
        is_reproducible: Whether all of it was computed by servers whose probes were as promised.
        cancelled: Set by any thread; the scheduler drops the sequence when it next looks.
    """

    model: ModelVersion
    prompt_ids: np.ndarray
    max_tokens: int
    sampling: SamplingParams
    seed: int
    stream: int
    end_id: int | None
    emit: Callable[[Event], None]
    state: np.ndarray
    seen_ids: np.ndarray
    index: int = 0
    vocab_size: int = MAX_VOCAB_SIZE
    quota: Quota = Quota()
    prefill_signature: str = signatures.PREFILL
    tells: tuple[tuple[str, int], ...] = ()
    position: int = 0
    counts_before: tuple[np.ndarray, np.ndarray] | None = None
    returns_state: bool = False
    num_top: int | None = None
    trace: Any = None
    hidden_sum: np.ndarray | None = None
    expected_probe_hash: str | None = None
    scope: Hashable = None
    prefix_blocks: tuple[bytes, ...] = ()
    request: int = 0
    started: bool = False
    forks: list["Sequence"] = field(default_factory=list)
    num_read: int = 0
    num_cached_tokens: int = 0
    prefix: Prefix | None = None
    num_generated: int = 0
    last_token_id: int = 0
    accepted_at: float = 0.0
    cost: int = 0
    is_reproducible: bool = True
    cancelled: bool = False
    _uniforms: UniformStream = field(init=False)
    adjustments: Adjustments = field(init=False)

    def __post_init__(self) -> None:
        self._uniforms = UniformStream(self.seed, self.stream)
        self.last_token_id = int(self.prompt_ids[-1])
        sampling = self.sampling
        counts, drawn = sampling.counts_tokens, self.counts_before
        self.adjustments = Adjustments(sampling.bias, self.seen_ids, counts=counts, drawn=drawn if counts else None)

    @property
    def decode_signature(self) -> str:
        """The signature by which tokens are drawn."""
        return signatures.DECODE_FULL if self.num_top or self.sampling.adjusts else signatures.DECODE

    @property
    def num_remaining_prompt_tokens(self) -> int:
        """Prompt tokens still to be read; the last one is read when the next is drawn, or when there is no next."""
        last_too = self.prefill_signature in (signatures.EMBED, signatures.INSPECT)
        return len(self.prompt_ids) - (0 if last_too else 1) - self.num_read

    def uniforms(self, count: int) -> np.ndarray:
        """Return float32 (count,): the random numbers of the next tokens."""
        return self._uniforms.take(self.position + self.num_generated, count)

    @property
    def state_snapshot(self) -> np.ndarray | None:
        """The state as an event tells it, if it is to: a copy, as a view would keep the whole reply of its call."""
        return self.state.copy() if self.returns_state else None

    @property
    def num_left(self) -> int:
        """Tokens that may still be drawn."""
        return self.max_tokens - self.num_generated

    @property
    def ended(self) -> bool:
        """Whether there is nothing left to read or to draw."""
        by_mark = self.num_generated > 0 and self.last_token_id == self.end_id
        return self.num_remaining_prompt_tokens == 0 and (self.num_left == 0 or by_mark)

    def resume_from_prefix(self, prefix: Prefix, state: np.ndarray) -> None:
        """Begin with a state that has read the prompt's first tokens before."""
        self.num_read = self.num_cached_tokens = prefix.length
        self.prefix, self.state = prefix, state

    def fork_from(self, first: "Sequence") -> None:
        """Begin where another choice of the same prompt has come to by reading it."""
        self.num_read, self.state, self.is_reproducible = first.num_read, first.state, first.is_reproducible
        self.started = True
        self.prefix = first.prefix.copy() if first.prefix else None

    def read(self, count: int, state: np.ndarray) -> None:
        """Note that `count` more prompt tokens were read."""
        if self.prefix is not None:
            self.prefix.extend(self.prompt_ids[self.num_read : self.num_read + count])
        self.num_read += count
        self.state = state

    def advance(self, token_ids: list[int], state: np.ndarray, scores: Scores | None = None) -> Chunk:
        """Note drawn tokens, at least one; the end mark, if drawn, is the last of them.

        Returns:
            What to tell the client.
        """
        self.num_generated += len(token_ids)
        if self.prefix is not None:
            self.prefix.extend([self.last_token_id, *token_ids[:-1]])
        self.state, self.last_token_id = state, token_ids[-1]
        self.adjustments.note(token_ids)
        told = self.state_snapshot
        if self.last_token_id == self.end_id:
            return Chunk(self.index, token_ids[:-1], "stop", scores, told)
        return Chunk(self.index, token_ids, "length" if self.num_left == 0 else None, scores, told)
