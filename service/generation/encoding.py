"""From what a client gave to encoded prompts, within limits of tokens and memory.

Lengths are checked by characters first, as encoding takes ten times the memory of a text and up to a second.

Knows tokenizers. Does not know what prompts are for, or who asks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from service.api.parameters import PromptText
from service.backends.registry import ServedModel
from service.errors import InvalidRequest
from service.generation.memory_estimates import given_bytes
from service.generation.prompts import NOTHING, EncodedPrompt
from service.memory import MemoryLease

# Tokens that a state may bring along unread, beside a longest prompt: those of a call and the last one.
MAX_UNREAD = 129


@dataclass(frozen=True)
class Sizes:
    """What one request may hold, in tokens.

    Attributes:
        max_prompt_tokens: Of each prompt.
        max_echo_tokens: Of all prompts echoed, in all choices.
        max_logprobs_tokens: Tokens returned with log probabilities, of prompts and completions, in all choices.
        max_inspect_values: Values of /v1/inspect, not tokens.
        max_total_tokens: Of all prompts together, as the queue holds no more.
    """

    max_prompt_tokens: int = 131_072
    max_echo_tokens: int = 1_000_000
    max_logprobs_tokens: int = 262_144
    max_inspect_values: int = 2**24
    max_total_tokens: int = 4_000_000


def require_encodable(given: Sequence[PromptText], model: ServedModel, field: str, sizes: Sizes) -> int:
    """Refuse prompts that have too many tokens, whatever these are, or ids that the model does not have.

    Returns:
        The number of tokens that they have at least.

    Raises:
        InvalidRequest: see above.
    """
    least = []
    for one in given:
        least.append(min_tokens(one, model))
        is_exact = isinstance(one, list) or model.tokenizer.max_token_characters == 1
        _require_at_most(least[-1], sizes.max_prompt_tokens, field, "" if is_exact else "at least ")
        if isinstance(one, list):
            require_ids(one, model, field)
    _require_total(sum(least), field, sizes)
    return sum(least)


def encode_prompts(
    given: Sequence[PromptText],
    model: ServedModel,
    field: str,
    sizes: Sizes,
    memory: MemoryLease,
    *,
    after: np.ndarray = NOTHING,
    backward: bool,
) -> list[EncodedPrompt]:
    """Encode prompts that `require_encodable` let pass, one after another while they are not too many tokens.

    Args:
        given: Texts or lists of ids.
        model: What reads them.
        field: Where they stand in the request.
        sizes: Limits.
        memory: Holds what is needed meanwhile.
        after: int32 (tokens,): what is read before each.
        backward: Whether they are read from their end.

    Raises:
        InvalidRequest: they are too many tokens, or need more memory than there is.
        MemoryExhausted: other requests hold too much.
    """
    prompts: list[EncodedPrompt] = []
    held, total, bound = given_bytes(given), 0, sizes.max_prompt_tokens
    for one in given:
        memory.hold(held + encoding_bytes(one, model), field, param=field)
        prompt = EncodedPrompt.of(one, model.tokenizer, backward=backward, after=after)
        prompts.append(prompt)
        held, total = held + prompt.num_bytes, total + prompt.num_tokens
        _require_at_most(prompt.num_tokens, bound, field)
        if len(prompt.read_ids) > bound + MAX_UNREAD:
            raise InvalidRequest(
                f"{field} and what the state has not read yet must be at most {bound + MAX_UNREAD} tokens, got "
                f"{prompt.num_tokens} and {len(after)}",
                param=field,
            )
        _require_total(total, field, sizes)
    return prompts


def min_tokens(given: PromptText, model: ServedModel) -> int:
    """Return how many tokens a prompt has at least, without encoding it."""
    longest = 1 if isinstance(given, list) else model.tokenizer.max_token_characters
    return 0 if longest is None else -(-len(given) // longest)


def encoding_bytes(given: PromptText, model: ServedModel) -> int:
    """Return how much memory it takes at most to encode a text, or to decode ids that the model has."""
    tokenizer = model.tokenizer
    if isinstance(given, list):
        # Pieces of text: their places in a list, and up to 4 bytes a character, joined from bytes.
        return 8 * len(given) + 8 * sum(len(tokenizer.tokens[i]) for i in given)
    num_bytes = len(given) if given.isascii() else len(given.encode("utf-8", "surrogatepass"))
    return tokenizer.encoding_bytes(num_bytes)


def require_ids(token_ids: list[int], model: ServedModel, field: str) -> None:
    """Refuse ids that the model does not have.

    Raises:
        InvalidRequest: one is too large; the message names field, bound and value.
    """
    bound = len(model.tokenizer.tokens)
    wrong = max(token_ids, default=0)
    if wrong >= bound:
        raise InvalidRequest(f"{field} must have token ids below {bound}, got {wrong}", param=field)


def _require_at_most(num_tokens: int, bound: int, field: str, how: str = "") -> None:
    if num_tokens > bound:
        raise InvalidRequest(f"{field} must be at most {bound} tokens, got {how}{num_tokens}", param=field)


def _require_total(num_tokens: int, field: str, sizes: Sizes) -> None:
    if num_tokens > sizes.max_total_tokens:
        raise InvalidRequest(
            f"{field} must be at most {sizes.max_total_tokens} tokens in all, got at least {num_tokens}", param=field
        )
