"""One text in the making: what was read, what was drawn, and the row of floats that is the model's memory of it.

Knows ids, counts and its own state. Does not know text, other sequences or where it is computed.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from service.errors import GatewayError
from service.randomness import UniformStream


@dataclass(frozen=True)
class ModelVersion:
    """A concrete version on the model server."""

    name: str
    version: int


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn; see `export.sampling.Controls` for the meaning of each.

    Attributes:
        top_k: 0 is off.
        top_p: 1 is off.
        min_p: 0 is off.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0


@dataclass(frozen=True)
class Chunk:
    """Tokens that one call drew for one sequence.

    Attributes:
        choice: Index of the sequence within its request.
        token_ids: In order; the end mark is not among them.
        finish_reason: "stop" or "length" with the last chunk, else None.
    """

    choice: int
    token_ids: list[int]
    finish_reason: str | None = None


@dataclass(frozen=True)
class Failure:
    """The sequence cannot go on; nothing comes after this."""

    choice: int
    error: GatewayError


Event = Chunk | Failure


@dataclass(eq=False, slots=True)
class Sequence:
    """One choice of one request.

    Attributes:
        model: The version that it stays on.
        prompt_ids: int32 (tokens,), at least one; the last is the first that `decode` reads.
        end_id: The end mark, or None.
        emit: Takes each event, in order; called on the scheduler's thread and must not block.
        forks: Choices with the same prompt, which start from this one's state once it is read.
        state: float32 (S,) after the tokens read so far.
        num_read: Prompt tokens read.
        last_id: The newest token, not yet read by the model.
        num_drawn: Tokens drawn so far: the position of the next uniform.
        cancelled: Set by any thread; the scheduler drops the sequence when it next looks.
    """

    model: ModelVersion
    prompt_ids: np.ndarray
    max_tokens: int
    sampling: Sampling
    seed: int
    choice: int
    end_id: int | None
    emit: Callable[[Event], None]
    state: np.ndarray
    forks: list["Sequence"] = field(default_factory=list)
    num_read: int = 0
    num_drawn: int = 0
    last_id: int = 0
    cancelled: bool = False
    uniforms: UniformStream = field(init=False)

    def __post_init__(self) -> None:
        self.uniforms = UniformStream(self.seed, self.choice)
        self.last_id = int(self.prompt_ids[-1])

    @property
    def num_unread(self) -> int:
        """Prompt tokens still to be read before the first can be drawn."""
        return len(self.prompt_ids) - 1 - self.num_read

    @property
    def num_left(self) -> int:
        """Tokens that may still be drawn."""
        return self.max_tokens - self.num_drawn

    def read(self, count: int, state: np.ndarray) -> None:
        """Note that `count` more prompt tokens were read."""
        self.num_read += count
        self.state = state

    def advance(self, token_ids: list[int], state: np.ndarray) -> Chunk:
        """Note drawn tokens, at least one; the end mark, if drawn, is the last of them.

        Returns:
            What to tell the client.
        """
        self.num_drawn += len(token_ids)
        self.state, self.last_id = state, token_ids[-1]
        if self.last_id == self.end_id:
            return Chunk(self.choice, token_ids[:-1], "stop")
        return Chunk(self.choice, token_ids, "length" if self.num_left == 0 else None)
