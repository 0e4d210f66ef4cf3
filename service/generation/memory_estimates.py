"""How much memory a request takes: upper estimates, each from a measurement.

Knows requests, prompts and what is made of them. Does not know who holds the memory, or how much there is.
"""

import sys
from collections.abc import Sequence

from contract.card import GeneratorCard
from service.api.parameters import CompletionRequest, PromptText
from service.generation.prompts import EncodedPrompt

# An id that the client sent: its place in a list, and the object.
_GIVEN_ID_BYTES = 40
# A token that was generated, and waits in an event or stands in a text: as above, and a share of its event.
_TOKEN_BYTES = 48
# A token returned with log probabilities, as lists and JSON, and each alternative (measured: 362 and 814 with 5).
_LOGPROBS_BYTES, _ALTERNATIVE_BYTES = 350, 100
# Log probabilities that wait in an event: one, and five with their ids.
_SCORES_BYTES = 44
# A text that is repeated: as a string, joined, and in JSON.
_ECHO_COPIES = 3
# A state: as floats, as bytes, and twice in base64.
_STATE_COPIES = 5
# Chunks have 128 tokens unless a model server is busy with many others.
_TOKENS_PER_CHUNK = 32
# A number of an embedding, and of /v1/inspect: float32, and the former's JSON beside it.
_VECTOR_BYTES, _VALUE_BYTES = 4 + 16, 4


def given_bytes(given: Sequence[PromptText]) -> int:
    """Return what prompts take as they came."""
    return sum(sys.getsizeof(one) if isinstance(one, str) else _GIVEN_ID_BYTES * len(one) for one in given)


def completion_bytes(request: CompletionRequest, card: GeneratorCard, prompts: Sequence[EncodedPrompt]) -> int:
    """Return what the generated tokens and the response take, beside the prompts."""
    num_choices = len(prompts) * request.best_of
    num_generated, echoes = num_choices * request.max_tokens, request.best_of if request.echo else 0
    num_told = echoes * sum(prompt.num_tokens for prompt in prompts)
    total = _TOKEN_BYTES * num_generated
    total += _ECHO_COPIES * echoes * sum(sys.getsizeof(prompt.text) for prompt in prompts)
    if request.num_top is not None:
        # A stream hands them out as they come; a backward model's is held until its end.
        held = num_told if request.stream and card.direction == "forward" else num_told + num_generated
        total += _SCORES_BYTES * num_generated + logprobs_bytes(held, request.num_top)
    elif request.best_of > request.num_choices:
        total += _SCORES_BYTES * num_generated
    if request.returns_states:
        chunks = 1 + request.max_tokens // _TOKENS_PER_CHUNK
        total += num_choices * card.state_size * 4 * (chunks + _STATE_COPIES)
    return total


def logprobs_bytes(num_tokens: int, num_top: int) -> int:
    """Return the bytes that log probabilities of `num_tokens` tokens take as lists and as JSON."""
    return num_tokens * (_LOGPROBS_BYTES + _ALTERNATIVE_BYTES * num_top)


def embedding_bytes(num_prompts: int, units: int) -> int:
    """Return what vectors take as arrays and as JSON."""
    return num_prompts * units * _VECTOR_BYTES


def inspection_bytes(num_values: int, num_tokens: int, num_top: int) -> int:
    """Return what the values and log probabilities of an inspected text take; the values' JSON is streamed."""
    return num_values * _VALUE_BYTES + num_tokens * _SCORES_BYTES + logprobs_bytes(num_tokens, num_top)
