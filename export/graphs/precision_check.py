"""What bfloat16 costs a model: its loss on a text in both precisions, for the card.

Knows the signatures `score` and `decode`, and tokenizers. Does not know where the text comes from.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tensorflow as tf

from contract import signatures
from contract.card import PrecisionCheck
from contract.tokenizer import Tokenizer

# Sequences and tokens of each: 16,384 tokens, which two cores of an AMD EPYC score in less than a second.
_BATCH_SIZE, _LENGTH = 64, 256

Functions = Mapping[str, Callable[..., Mapping[str, tf.Tensor]]]


def check_precision(
    functions: Functions, tokenizer: Tokenizer, documents: Sequence[str], state_size: int, *, backward: bool
) -> PrecisionCheck:
    """Compute the loss of the signatures in float32 and in bfloat16, each carrying its own state.

    Args:
        functions: The signatures of a version, by name.
        tokenizer: Its tokenizer.
        documents: A text that the model was not trained on, of which at most 16,384 tokens are used; if it has less
            than 256, tokens sampled from the model take its place.
        state_size: S, floats of state per sequence.
        backward: Whether it is a backward model.
    """
    token_ids, text = _encode(tokenizer, documents, backward=backward), "held_out"
    if len(token_ids):
        lengths = np.full(len(token_ids), _LENGTH, np.int32)
    else:
        token_ids, lengths = _sample(functions, tokenizer, state_size)
        text = "sampled"
    state = np.zeros((len(token_ids), state_size), np.float32)
    losses = {}
    for precision in (signatures.FLOAT32, signatures.BFLOAT16):
        score = functions[signatures.in_precision(signatures.SCORE, precision)]
        arrays = {"token_ids": token_ids, "lengths": lengths, "state": state}
        logprobs = score(**{name: tf.constant(array) for name, array in arrays.items()})["logprobs"].numpy()
        losses[precision] = float(-logprobs.sum(dtype=np.float64) / lengths.sum())
    return PrecisionCheck(text=text, tokens=int(lengths.sum()), **losses)


def _encode(tokenizer: Tokenizer, documents: Sequence[str], *, backward: bool) -> np.ndarray:
    """Return token ids int32 (batch, 257) of the documents, one after another, each with its end token."""
    end = [] if tokenizer.special.end is None else [tokenizer.special.end]
    ids: list[int] = []
    for document in documents:
        if len(ids) >= _BATCH_SIZE * (_LENGTH + 1):
            break
        ids += [*tokenizer.encode(document)[:: -1 if backward else 1], *end]
    num_rows = min(_BATCH_SIZE, len(ids) // (_LENGTH + 1))
    return np.array(ids[: num_rows * (_LENGTH + 1)], np.int32).reshape(num_rows, _LENGTH + 1)


def _sample(functions: Functions, tokenizer: Tokenizer, state_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return sampled token ids int32 (64, T + 1), from the start token on, and how many of each sequence to score."""
    rng = np.random.default_rng(0)
    last, state = np.full(_BATCH_SIZE, tokenizer.special.start, np.int32), np.zeros((_BATCH_SIZE, state_size))
    parts, ended = [last[:, None]], np.zeros(_BATCH_SIZE, bool)
    for _ in range(_LENGTH // signatures.MAX_DECODE_STEPS):
        arrays = {
            "token_id": last,
            "state": state.astype(np.float32),
            "uniforms": rng.random((_BATCH_SIZE, signatures.MAX_DECODE_STEPS), dtype=np.float32),
            "steps": np.where(ended, 0, signatures.MAX_DECODE_STEPS).astype(np.int32),
            "temperature": np.ones(_BATCH_SIZE, np.float32),
            "top_k": np.zeros(_BATCH_SIZE, np.int32),
            "top_p": np.ones(_BATCH_SIZE, np.float32),
            "min_p": np.zeros(_BATCH_SIZE, np.float32),
        }
        decoded = functions[signatures.DECODE](**{name: tf.constant(array) for name, array in arrays.items()})
        sampled, state = decoded["token_ids"].numpy(), decoded["state"].numpy()
        parts.append(sampled)
        last, ended = sampled[:, -1], ended | (sampled == tokenizer.special.end).any(axis=1)
    token_ids = np.concatenate(parts, axis=1)
    is_end = token_ids[:, 1:] == tokenizer.special.end
    lengths = np.where(is_end.any(axis=1), is_end.argmax(axis=1) + 1, token_ids.shape[1] - 1)
    return token_ids, lengths.astype(np.int32)
