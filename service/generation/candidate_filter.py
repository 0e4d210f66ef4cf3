"""The filter of candidates: rejects duplicates and copies of training text; the others become choices."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

# Candidates of a prompt: this many for each choice, and some more for a request of few choices.
CANDIDATES_PER_CHOICE, MORE_CANDIDATES = 10, 90

# Whether a text, with its prompt and the token ids of both, is a copy of training text.
IsCopy = Callable[[Sequence[int], str], bool]


@dataclass
class CandidateFilter:
    """The candidates of one prompt.

    The decision depends on the texts in the order of their random streams, not on the order in which they finish: the
    same seed gives the same choices.
    """

    count: int  # number of requested choices
    unique: bool  # whether a text that was accepted before is rejected
    is_copy: IsCopy | None  # rejects copies of training text; None: they are accepted
    num_rejected: int = 0  # candidates rejected so far
    num_accepted: int = 0  # candidates accepted so far
    _num_candidates: int = field(default=0, init=False)
    _finished: dict[int, tuple[Sequence[int], str]] = field(default_factory=dict, init=False)
    _accepted: set[str] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        self._num_candidates = self.count

    def next_candidate(self) -> int | None:
        """Return the number of a candidate in place of a rejected one; None: the limit of candidates is reached.

        Then there are fewer choices than requested.
        """
        if self._num_candidates == CANDIDATES_PER_CHOICE * self.count + MORE_CANDIDATES:
            return None
        self._num_candidates += 1
        return self._num_candidates - 1

    def decide(self, number: int, token_ids: Sequence[int], text: str) -> list[tuple[int, int | None]]:
        """Record a finished candidate; return all candidates that can now be decided, in order of their numbers.

        Each has its rank among the accepted ones, or None if it is rejected. The token ids of prompt and candidate are
        in the order of generation, their text is in reading order.
        """
        self._finished[number] = token_ids, text
        decided: list[tuple[int, int | None]] = []
        while (candidate := self.num_accepted + self.num_rejected) in self._finished:
            token_ids, text = self._finished.pop(candidate)
            if (self.unique and text in self._accepted) or (self.is_copy is not None and self.is_copy(token_ids, text)):
                self.num_rejected += 1
                decided.append((candidate, None))
                continue
            if self.unique:
                self._accepted.add(text)
            decided.append((candidate, self.num_accepted))
            self.num_accepted += 1
        return decided
