"""Names of the API's fields. The server reads over what it does not know, so that here a misspelt one is refused."""

COMPLETION_FIELDS = frozenset(
    {
        "model",
        "prompt",
        "suffix",
        "max_tokens",
        "min_tokens",
        "ignore_eos",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "presence_penalty",
        "frequency_penalty",
        "repetition_penalty",
        "logit_bias",
        "seed",
        "stop",
        "n",
        "best_of",
        "echo",
        "logprobs",
        "stream_options",
        "return_state",
        "state",
        "timeout_s",
        "add_special_tokens",
        "user",
    }
)
EMBEDDING_FIELDS = frozenset(
    {
        "model",
        "input",
        "pooling",
        "encoding_format",
        "dimensions",
        "timeout_s",
        "user",
    }
)
