"""Encoding of prompts, within limits of tokens and memory.

Lengths are checked by characters first, as encoding takes ten times the memory of a text and up to a second.

Knows tokenizers. Does not know what prompts are for, or the principal.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from service.api.parameters import PromptText
from service.backends.registry import ServedModel
from service.errors import InvalidRequest
from service.generation.memory_estimates import prompt_bytes
from service.generation.prompts import NOTHING, EncodedPrompt
from service.memory import MemoryLease

# Unread tokens that a resume token may add to a prompt of the maximum length: those of one call, and the last one.
MAX_UNREAD = 129


@dataclass(frozen=True)
class TokenLimits:
    """Limits of one request, in tokens.

    Attributes:
        max_prompt_tokens: Of each prompt.
        max_echo_tokens: Of all echoed prompts, in all choices.
        max_logprobs_tokens: Tokens returned with log probabilities, of prompts and completions, in all choices.
        max_inspect_values: Numbers in a response of /v1/inspect, not tokens.
        max_total_tokens: Of all prompts together; the queue holds no more.
    """

    max_prompt_tokens: int = 131_072
    max_echo_tokens: int = 1_000_000
    max_logprobs_tokens: int = 262_144
    max_inspect_values: int = 2**24
    max_total_tokens: int = 4_000_000


def require_encodable(raw_prompts: Sequence[PromptText], model: ServedModel, field: str, sizes: TokenLimits) -> int:
    """Refuse prompts that have too many tokens however they are encoded, or ids that the model does not have.

    Returns:
        The minimum number of their tokens.

    Raises:
        InvalidRequest: see above.
    """
    minimums = []
    for prompt in raw_prompts:
        minimums.append(min_tokens(prompt, model))
        is_exact = isinstance(prompt, list) or model.tokenizer.max_token_characters == 1
        _require_at_most(minimums[-1], sizes.max_prompt_tokens, field, "" if is_exact else "at least ")
        if isinstance(prompt, list):
            require_ids(prompt, model, field)
    _require_total(sum(minimums), field, sizes)
    return sum(minimums)


def encode_prompts(
    raw_prompts: Sequence[PromptText],
    model: ServedModel,
    field: str,
    sizes: TokenLimits,
    memory: MemoryLease,
    *,
    after: np.ndarray = NOTHING,
    backward: bool,
) -> list[EncodedPrompt]:
    """Encode prompts that `require_encodable` accepted, one by one until they exceed a limit.

    Args:
        raw_prompts: Texts or lists of ids.
        model: The model that encodes them.
        field: Name of their field in the request.
        sizes: Limits.
        memory: Holds the memory of encoding, and of the prompts encoded so far.
        after: int32 (tokens,): tokens that the model reads before each prompt.
        backward: Whether the model reads them from right to left.

    Raises:
        InvalidRequest: they have too many tokens, or need more memory than the whole budget.
        MemoryExhausted: other requests hold too much memory.
    """
    prompts: list[EncodedPrompt] = []
    held, total, limit = prompt_bytes(raw_prompts), 0, sizes.max_prompt_tokens
    for raw_prompt in raw_prompts:
        memory.hold(held + encoding_bytes(raw_prompt, model), field, param=field)
        prompt = EncodedPrompt.of(raw_prompt, model.tokenizer, backward=backward, after=after)
        prompts.append(prompt)
        held, total = held + prompt.num_bytes, total + prompt.num_tokens
        _require_at_most(prompt.num_tokens, limit, field)
        if len(prompt.read_ids) > limit + MAX_UNREAD:
            raise InvalidRequest(
                f"{field} and what the state has not read yet must be at most {limit + MAX_UNREAD} tokens, got "
                f"{prompt.num_tokens} and {len(after)}",
                param=field,
            )
        _require_total(total, field, sizes)
    return prompts


def min_tokens(prompt: PromptText, model: ServedModel) -> int:
    """Return the minimum number of tokens of a prompt, without encoding it."""
    max_characters = 1 if isinstance(prompt, list) else model.tokenizer.max_token_characters
    return 0 if max_characters is None else -(-len(prompt) // max_characters)


def encoding_bytes(prompt: PromptText, model: ServedModel) -> int:
    """Return the maximum memory for encoding a text, or for decoding ids that the model has."""
    tokenizer = model.tokenizer
    if isinstance(prompt, list):
        # A list of the tokens' texts, and up to 4 bytes a character, joined from bytes.
        return 8 * len(prompt) + 8 * sum(len(tokenizer.tokens[i]) for i in prompt)
    num_bytes = len(prompt) if prompt.isascii() else len(prompt.encode("utf-8", "surrogatepass"))
    return tokenizer.encoding_bytes(num_bytes)


def require_ids(token_ids: list[int], model: ServedModel, field: str) -> None:
    """Refuse ids that the model does not have.

    Raises:
        InvalidRequest: one is too large; the message names field, limit and value.
    """
    vocab_size = len(model.tokenizer.tokens)
    largest = max(token_ids, default=0)
    if largest >= vocab_size:
        raise InvalidRequest(f"{field} must have token ids below {vocab_size}, got {largest}", param=field)


def _require_at_most(num_tokens: int, limit: int, field: str, qualifier: str = "") -> None:
    if num_tokens > limit:
        raise InvalidRequest(f"{field} must be at most {limit} tokens, got {qualifier}{num_tokens}", param=field)


def _require_total(num_tokens: int, field: str, sizes: TokenLimits) -> None:
    if num_tokens > sizes.max_total_tokens:
        raise InvalidRequest(
            f"{field} must be at most {sizes.max_total_tokens} tokens in all, got at least {num_tokens}", param=field
        )
