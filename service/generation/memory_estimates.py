"""Upper estimates of a request's memory, each from a measurement."""

import sys
from collections.abc import Sequence

from contract.card import GeneratorCard
from service.api.requests import CompletionRequest
from service.generation.prompts import EncodedPrompt
from service.structured_outputs.patterns import Constraint

# A generated token, in a queued result or a text: 40 as a list entry and its object, and a share of its event.
_TOKEN_BYTES = 48
# A token with log probabilities, as lists and JSON, and each top token (measured: 362 and 814 with 5).
_LOGPROBS_BYTES, _ALTERNATIVE_BYTES = 350, 100
# An entry of `prompt_logprobs` in JSON (measured: 68 for a character), which is joined, and copied into every choice.
_PROMPT_LOGPROB_BYTES, _PROMPT_LOGPROBS_COPIES = 80, 3
# An echoed prompt: as a string, joined, and in JSON.
_ECHO_COPIES = 3
# A state: as floats, as bytes, and twice in base64.
_STATE_COPIES = 5
# Decode calls have 32 to 128 steps, except a sequence's first (8) and its last; see service.scheduling.queues.
_TOKENS_PER_CHUNK = 32
# The score of a text, as an object and as JSON.
_SCORE_BYTES = 1000
# A number of an embedding, float32 and its JSON; a number of /v1/inspect, float32.
_VECTOR_BYTES, _VALUE_BYTES = 4 + 16, 4


def completion_bytes(
    request: CompletionRequest,
    card: GeneratorCard,
    prompts: Sequence[EncodedPrompt],
    constraints: Sequence[Constraint | None] = (),
) -> int:
    """Return the bytes that the generated tokens and the response take, without the encoded prompts."""
    num_choices = len(prompts) * (request.top_texts or request.best_of)
    num_generated, echoes = num_choices * request.max_tokens, request.best_of if request.echo else 0
    num_echoed = echoes * sum(prompt.num_tokens for prompt in prompts)
    total = _TOKEN_BYTES * num_generated
    total += _ECHO_COPIES * echoes * sum(sys.getsizeof(prompt.text) for prompt in prompts)
    if request.logprobs is not None:
        # A stream sends them as they come; a backward model's are held until its end.
        num_held = num_echoed if request.stream and card.direction == "forward" else num_echoed + num_generated
        total += scores_bytes(num_generated, card) + logprobs_bytes(num_held, request.logprobs)
    elif request.best_of > request.n:
        total += scores_bytes(num_generated, card)
    if request.prompt_logprobs is not None:
        num_prompt_tokens = sum(prompt.num_tokens for prompt in prompts)
        num_bytes = _PROMPT_LOGPROB_BYTES * (1 + request.prompt_logprobs) * (_PROMPT_LOGPROBS_COPIES + request.n)
        total += scores_bytes(num_prompt_tokens, card) + num_prompt_tokens * num_bytes
    if request.issues_resume_tokens:
        chunks = 1 + request.max_tokens // _TOKENS_PER_CHUNK
        total += num_choices * card.state_size * 4 * (chunks + _STATE_COPIES)
        # A resume token has the patterns, too.
        num_pattern_bytes = sum(
            len(pattern.source.encode()) for constraint in constraints for pattern in constraint or ()
        )
        total += request.best_of * num_pattern_bytes * _STATE_COPIES
    return total


def logprobs_bytes(num_tokens: int, num_top: int) -> int:
    """Return the bytes that log probabilities of `num_tokens` tokens take as lists and as JSON."""
    return num_tokens * (_LOGPROBS_BYTES + _ALTERNATIVE_BYTES * num_top)


def embedding_bytes(num_prompts: int, units: int) -> int:
    """Return the bytes that vectors take as arrays and as JSON."""
    return num_prompts * units * _VECTOR_BYTES


def text_scores_bytes(num_texts: int, num_tokens: int, *, with_tokens: bool) -> int:
    """Return the bytes that scores of texts take: a float32 per token in results, and lists and JSON."""
    return num_texts * _SCORE_BYTES + num_tokens * (8 + with_tokens * _LOGPROBS_BYTES)


def scores_bytes(num_tokens: int, card: GeneratorCard) -> int:
    """Return the bytes that log probabilities take in queued results: one per token, top ones with ids."""
    return num_tokens * (4 + 8 * card.num_top)


def inspection_bytes(num_values: int, num_tokens: int, num_top: int, card: GeneratorCard) -> int:
    """Return the bytes that an inspection's values and log probabilities take; the values' JSON is streamed."""
    return num_values * _VALUE_BYTES + scores_bytes(num_tokens, card) + logprobs_bytes(num_tokens, num_top)
