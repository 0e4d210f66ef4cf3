"""What a sequence is generated with: a model version and sampling parameters.

Values that the API, the scheduler and the backends share.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelVersion:
    """A version of a model: its name and number."""

    name: str
    number: int


@dataclass(frozen=True)
class SamplingParams:
    """Sampling parameters; see `export.graphs.sampling.Controls` and `signatures` there for the meaning of each."""

    temperature: float = 1.0
    top_k: int = 0  # 0 is off
    top_p: float = 1.0  # 1 is off
    min_p: float = 0.0  # 0 is off
    presence_penalty: float = 0.0  # 0 is off
    frequency_penalty: float = 0.0  # 0 is off
    repetition_penalty: float = 1.0  # 1 is off
    bias: tuple[tuple[int, float], ...] = ()  # (token id, value added to its logit); ids are unique
    min_tokens: int = 0  # the EOS token is not sampled among the first `min_tokens` tokens

    @property
    def is_greedy(self) -> bool:
        """Whether the most probable token is always chosen: then every choice of a prompt has the same text."""
        return self.temperature == 0 or self.top_k == 1 or self.top_p == 0

    @property
    def counts_tokens(self) -> bool:
        """Whether a penalty is on: prompt and sampled tokens adjust the logits."""
        return bool(self.presence_penalty or self.frequency_penalty) or self.repetition_penalty != 1

    @property
    def adjusts(self) -> bool:
        """Whether logits are adjusted before sampling."""
        return self.counts_tokens or any(value for _, value in self.bias) or self.min_tokens > 0
