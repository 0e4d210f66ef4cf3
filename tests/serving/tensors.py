"""The tensors of each signature, as `docs/architecture.md` lists them, and valid calls.

Shapes are written with its letters: B sequences, T and K tokens, N adjusted ids, and of a model S floats of state,
U units, V tokens and P most probable ones.
"""

import numpy as np

from contract import signatures

INT, FLOAT = np.int32, np.float32
TOP = "P"

_READING = {"token_ids": (INT, "BT"), "lengths": (INT, "B"), "state": (FLOAT, "BS")}
_DRAWING = {
    "token_id": (INT, "B"),
    "state": (FLOAT, "BS"),
    "uniforms": (FLOAT, "BK"),
    "steps": (INT, "B"),
    "temperature": (FLOAT, "B"),
    "top_k": (INT, "B"),
    "top_p": (FLOAT, "B"),
    "min_p": (FLOAT, "B"),
}
_ADJUSTING = {
    "adjusted_ids": (INT, "BN"),
    "counts": (FLOAT, "BN"),
    "seen": (FLOAT, "BN"),
    "bias": (FLOAT, "BN"),
    "presence_penalty": (FLOAT, "B"),
    "frequency_penalty": (FLOAT, "B"),
    "repetition_penalty": (FLOAT, "B"),
    "min_steps": (INT, "B"),
    "transitions": (INT, "BV"),
    "continuations": (INT, "B"),
    "row": (INT, "B"),
    "budget": (INT, "B"),
    "num_top": (INT, "B"),
}
NUM_AHEAD = 2
_DRAWN = {"token_ids": (INT, "BK"), "logprobs": (FLOAT, "BK"), "state": (FLOAT, "BS")}
_SCORED = {
    "logprobs": (FLOAT, "BT"),
    "top_token_ids": (INT, "BT" + TOP),
    "top_logprobs": (FLOAT, "BT" + TOP),
    "state": (FLOAT, "BS"),
}

INPUTS = {
    signatures.SERVING_DEFAULT: {"token_ids": (INT, "BT")},
    signatures.PREFILL: _READING,
    signatures.DECODE: _DRAWING,
    signatures.DECODE_FULL: {**_DRAWING, **_ADJUSTING},
    signatures.SCORE: {**_READING, "num_top": (INT, "B")},
    signatures.EMBED: {**_READING, "sum": (FLOAT, "BU")},
    signatures.INSPECT: _READING,
    signatures.NEXT_LOGPROBS: {
        **_READING,
        "num_ahead": (INT, "B"),
        "logprob": (FLOAT, "B"),
        "row": (INT, "B"),
        "transitions": (INT, "BV"),
    },
}
OUTPUTS = {
    signatures.SERVING_DEFAULT: {"logits": (FLOAT, "BTV")},
    signatures.PREFILL: {"state": (FLOAT, "BS")},
    signatures.DECODE: _DRAWN,
    signatures.DECODE_FULL: {**_DRAWN, "top_token_ids": (INT, "BK" + TOP), "top_logprobs": (FLOAT, "BK" + TOP)},
    signatures.SCORE: _SCORED,
    # And the activations that each model's card lists.
    signatures.INSPECT: _SCORED,
    signatures.NEXT_LOGPROBS: {
        "token_ids": (INT, "BA"),
        "parents": (INT, "BA"),
        "logprobs": (FLOAT, "BAV"),
        "state": (FLOAT, "BS"),
    },
    signatures.EMBED: {"state": (FLOAT, "BS"), "sum": (FLOAT, "BU"), "last": (FLOAT, "BU")},
}
NAMES = tuple(INPUTS)


def outputs_of(signature, card):
    told = card.activations if signature == signatures.INSPECT else ()
    return {**OUTPUTS[signature], **{each.output: (FLOAT, ("B", "T", each.units)) for each in told}}


def sizes_of(card, rows=None, length=None, steps=None):
    """Return the size that each letter stands for; None: any size."""
    free = {"B": rows, "T": length, "K": steps, "N": None, "A": rows and NUM_AHEAD + 1}
    return {**free, "S": card.state_size, "U": card.units, "V": card.vocab_size, TOP: card.num_top}


def shape(letters, sizes):
    """Return the shape that letters stand for; a number stands for itself."""
    return tuple(sizes.get(letter, letter) for letter in letters)


def make_call(signature, card, rows, *, length=7, steps=9, seed=0, temperature=0.0):
    """Return inputs for a call of a signature; all sequences differ, also in length.

    Args:
        signature: Its name.
        card: The model's card.
        rows: B, the batch size.
        length: T.
        steps: K.
        seed: Calls of different seeds differ.
        temperature: 0 samples greedily.
    """
    rng = np.random.default_rng(seed)
    read = length + 1 if signature in (signatures.SCORE, signatures.INSPECT) else length
    # The state of a sliding-window model is token ids, not arbitrary floats: all zeros is the empty window.
    state = np.zeros((rows, card.state_size)) if card.context else rng.uniform(-0.5, 0.5, (rows, card.state_size))
    values = {
        "token_ids": rng.integers(0, card.vocab_size, (rows, read)),
        "lengths": 1 + (np.arange(rows) + seed) % length,
        "state": state,
        "sum": rng.uniform(-1, 1, (rows, card.units)),
        "token_id": rng.integers(0, card.vocab_size, rows),
        "uniforms": rng.random((rows, steps)),
        "steps": np.full(rows, steps),
        "temperature": np.full(rows, temperature),
        "top_k": np.where(np.arange(rows) % 2, 0, 20),
        "top_p": np.where(np.arange(rows) % 3, 1.0, 0.9),
        "min_p": np.zeros(rows),
        "adjusted_ids": np.argsort(rng.random((rows, card.vocab_size)))[:, :3],
        "counts": rng.integers(0, 3, (rows, 3)),
        "seen": rng.integers(0, 2, (rows, 3)),
        "bias": rng.uniform(-2, 2, (rows, 3)),
        "presence_penalty": rng.uniform(0, 0.5, rows),
        "frequency_penalty": rng.uniform(0, 0.5, rows),
        "repetition_penalty": rng.uniform(1.0, 1.3, rows),
        "min_steps": np.zeros(rows),
        "transitions": np.full((rows, card.vocab_size), signatures.UNCONSTRAINED_ROW),
        "continuations": np.zeros(rows),
        "row": np.full(rows, signatures.UNCONSTRAINED_ROW),
        "budget": np.full(rows, signatures.FORBIDDEN_DISTANCE),
        "num_top": np.full(rows, card.num_top),
        "num_ahead": np.full(rows, NUM_AHEAD),
        "logprob": np.zeros(rows),
    }
    return {name: values[name].astype(dtype) for name, (dtype, _) in INPUTS[signature].items()}
