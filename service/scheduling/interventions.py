"""Interventions: units whose values are changed before each decode step."""

from dataclasses import dataclass

import numpy as np

# Far beyond what a gate saturates at; without a limit, a cell that is scaled at each step overflows within 130 steps.
MAX_VALUE = 1000.0


@dataclass(frozen=True, eq=False)
class Interventions:
    """Changes of a state: at each index the value becomes `scale` × value + `offset`, limited to ±`MAX_VALUE`.

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
        state[self.indexes] = np.clip(state[self.indexes] * self.scale + self.offset, -MAX_VALUE, MAX_VALUE)
