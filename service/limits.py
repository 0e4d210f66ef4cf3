"""The limits of requests and of the scheduler: one immutable object, which `service.settings.Settings` extends."""

from pydantic import BaseModel, ConfigDict, Field


class Limits(BaseModel):
    """Limits of requests and of the scheduler, with their defaults."""

    model_config = ConfigDict(frozen=True)

    max_running: int = Field(128, ge=1, le=4096, description="maximum number of running sequences")
    max_queued: int = Field(
        256, ge=0, le=65536, description="maximum number of waiting sequences; beyond it requests get 429"
    )
    max_queued_tokens: int = Field(
        4_000_000,
        ge=1,
        description="maximum number of tokens of running and waiting sequences: prompt tokens and max_tokens, "
        "counted until a sequence ends; beyond it requests get 429",
    )
    prefix_cache_bytes: int = Field(64 * 2**20, ge=0, description="size of the prefix cache, in bytes; 0 disables it")
    max_calls: int = Field(
        2,
        ge=1,
        le=256,
        description="maximum number of concurrent calls per model server; set it to the number of cores of a "
        "model server",
    )
    max_tokens: int = Field(100_000, ge=1, description="maximum of max_tokens in a request")
    max_request_tokens: int = Field(
        1_000_000,
        ge=1,
        description="maximum of prompts × n × max_tokens in a request, of the tokens that echo repeats, and of "
        "the tokens of /tokenize and /detokenize",
    )
    max_prompts: int = Field(128, ge=1, le=4096, description="maximum number of prompts per request")
    max_logprobs_tokens: int = Field(
        262_144, ge=1, description="maximum number of tokens per request that are returned with log probabilities"
    )
    max_inspect_values: int = Field(2**24, ge=1, description="maximum number of values in a response of /v1/inspect")
    max_prompt_tokens: int = Field(131_072, ge=1, description="maximum length of a prompt, in tokens")
    max_timeout_s: float = Field(
        600.0, gt=0, le=86_400, description="maximum and default of timeout_s in a request, in seconds"
    )
    max_pattern_s: float = Field(
        2.0, gt=0, le=60, description="maximum CPU time to compile the patterns of a request, in seconds"
    )
    max_pattern_states: int = Field(
        20_000, ge=1, le=65_000, description="maximum number of states of the automaton of a request's patterns"
    )
    max_pattern_bytes: int = Field(
        32 * 2**20,
        ge=1024,
        description="maximum size of the automaton of a request's patterns, in bytes: 4 × its states × the tokens of "
        "the vocabulary",
    )
    pattern_cache_bytes: int = Field(64 * 2**20, ge=0, description="size of the cache of compiled patterns, in bytes")
    max_report_records: int = Field(
        100_000, ge=1, description="maximum number of records of each list or file of a report"
    )
    backend_grace_s: float = Field(
        30.0,
        ge=0,
        description="how long sequences wait for a version that has no backend in service before they fail, in seconds "
        "from its first failed call",
    )

    @property
    def max_sequences(self) -> int:
        """Sequences that may run and wait at once, and thus of one request."""
        return self.max_running + self.max_queued
