"""Whether an exported SavedModel computes what its model computes. Nothing is published before this says yes."""

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from contract import signatures
from export.errors import CheckFailed
from export.graphs.exportable import Exportable

TOKEN_TOLERANCE = 1e-4
LOSS_TOLERANCE = 1e-4
OUTPUT_TOLERANCE = 1e-4
_ROWS, _LENGTH = 8, 64
# Tokens compared one by one: few, as rounding grows from step to step in a network with large weights. The second is
# the first for which a state matters.
_COMPARED = 4
_EMBED_LENGTH = 8
_DRAWN = 16
_SHARE_PADDING = 0.05


def check_saved_model(path: Path, model: Exportable, num_tokens: int) -> None:
    """Load a SavedModel and hold it against the model that it was made from.

    The first tokens of a random text must have the model's own log probabilities to 1e-4 · max(1, |log p|), and the
    whole text the same mean negative log likelihood to 1e-4: by `score`, at once and in two halves with `prefill` for
    the first of them, and by `serving_default`. `embed` must give the outputs of the model's top to 1e-4. What
    `decode_full` says of the tokens that it draws must be what `score` says of them, to 1e-4, and so must what
    `inspect` says of a text; the states that it tells must end in the state that it returns.

    Args:
        path: The SavedModel's folder.
        model: What it was made from.
        num_tokens: Size of the tokenizer's vocabulary.

    Raises:
        CheckFailed: a figure differs by more; the message gives both.
    """
    functions = tf.saved_model.load(str(path)).signatures
    rng = np.random.default_rng(0)
    token_ids = rng.integers(0, num_tokens, (_ROWS, _LENGTH + 1)).astype(np.int32)
    # Padding stands for something else in many models, and of 20,000 tokens none would be it.
    token_ids[rng.random(token_ids.shape) < _SHARE_PADDING] = 0
    state = np.zeros((_ROWS, model.network.state_size), np.float32)
    expected = _log_probabilities(model.logits(token_ids[:, :-1]), token_ids)
    scored = _score(functions, token_ids, state)["logprobs"]
    _check_tokens(scored, expected)
    half = _LENGTH // 2
    first = token_ids[:, :half]
    read = _call(functions[signatures.PREFILL], token_ids=first, lengths=_full(_ROWS, half), state=state)["state"]
    rest = _score(functions, token_ids[:, half:], read)["logprobs"]
    logits = _call(functions[signatures.SERVING_DEFAULT], token_ids=token_ids[:, :-1])["logits"]
    for name, got, right in (
        (signatures.SCORE, scored, expected),
        (f"{signatures.PREFILL} and {signatures.SCORE}", rest, expected[:, half:]),
        (signatures.SERVING_DEFAULT, _log_probabilities(logits, token_ids), expected),
    ):
        if not abs(got.mean() - right.mean()) <= LOSS_TOLERANCE:
            raise CheckFailed(
                f"{name}: mean negative log likelihood {-got.mean()}, but the model gives {-right.mean()}"
            )
    _check_embed(functions[signatures.EMBED], model, token_ids[:, :_EMBED_LENGTH], state)
    if signatures.INSPECT in functions:  # earlier releases had none
        _check_inspect(functions, model, token_ids[:, :half], state)
    _check_decode_full(functions, token_ids[:, half], read, rng)


def _check_tokens(scored: np.ndarray, expected: np.ndarray) -> None:
    wrong = np.abs(scored - expected) / np.maximum(1, np.abs(expected))
    worst = wrong[:, :_COMPARED].max()
    if not worst <= TOKEN_TOLERANCE:
        raise CheckFailed(f"{signatures.SCORE}: a log probability is off by {worst:.2e} · max(1, |log p|), over 1e-4")


def _check_embed(embed: Any, model: Exportable, token_ids: np.ndarray, state: np.ndarray) -> None:
    """Hold the mean and the last output of a text against the model's own, if it has any to show."""
    if model.tops is None:
        return
    expected, length = model.tops(token_ids), token_ids.shape[1]
    total = np.zeros((_ROWS, model.network.output_size), np.float32)
    got = _call(embed, token_ids=token_ids, lengths=_full(_ROWS, length), state=state, sum=total)
    for name, value, right in (
        ("sum", got["sum"] / length, expected.mean(axis=1)),
        ("last", got["last"], expected[:, -1]),
    ):
        wrong = np.abs(value - right).max()
        if not wrong <= OUTPUT_TOLERANCE:
            raise CheckFailed(f"{signatures.EMBED}: {name} differs from the model's by {wrong:.2e}, over 1e-4")


def _check_inspect(functions: Any, model: Exportable, token_ids: np.ndarray, state: np.ndarray) -> None:
    """Hold what is told of each token against `score`, and against the state behind the last one."""
    told = _call(
        functions[signatures.INSPECT], token_ids=token_ids, lengths=_full(_ROWS, _LENGTH // 2 - 1), state=state
    )
    scored = _score(functions, token_ids, state)
    states = [trace.output for trace in model.network.traces if trace.kind in (signatures.HIDDEN, signatures.CELL)]
    parts = np.concatenate([told[name][:, -1] for name in states], axis=1) if states else told["state"]
    for name, got, right in (
        *((name, told[name], scored[name]) for name in ("logprobs", "top_logprobs", "state")),
        ("states", parts, told["state"]),
    ):
        wrong = np.abs(got - right).max()
        if not wrong <= OUTPUT_TOLERANCE:
            raise CheckFailed(f"{signatures.INSPECT}: {name} differ by {wrong:.2e}, over 1e-4")


def _check_decode_full(functions: Any, token_id: np.ndarray, state: np.ndarray, rng: np.random.Generator) -> None:
    """Let rows draw with every adjustment on and have `score` judge the same tokens."""
    columns = {
        **dict.fromkeys(("steps", "min_steps"), np.int32(_DRAWN)),
        "temperature": np.float32(1),
        "top_k": np.int32(0),
        "top_p": np.float32(1),
        "min_p": np.float32(0),
        **dict.fromkeys(("presence_penalty", "frequency_penalty"), np.float32(0.5)),
        "repetition_penalty": np.float32(1.2),
    }
    drawn = _call(
        functions[signatures.DECODE_FULL],
        token_id=token_id,
        state=state,
        uniforms=rng.integers(0, 2**23, (_ROWS, _DRAWN)).astype(np.float32) / np.float32(2**23),
        adjusted_ids=token_id[:, None],
        **dict.fromkeys(("counts", "seen", "bias"), np.ones((_ROWS, 1), np.float32)),
        **{name: np.full(_ROWS, value) for name, value in columns.items()},
    )
    text = np.concatenate([token_id[:, None], drawn["token_ids"]], axis=1)
    for name, expected in _score(functions, text, state).items():
        wrong = np.abs(drawn[name] - expected).max()
        # Tokens that are equally probable may stand in either order.
        if name != "top_token_ids" and not wrong <= OUTPUT_TOLERANCE:
            raise CheckFailed(f"{signatures.DECODE_FULL}: {name} differs from score by {wrong:.2e}, over 1e-4")


def _score(functions: Any, token_ids: np.ndarray, state: np.ndarray) -> dict[str, np.ndarray]:
    rows, length = token_ids.shape
    return _call(functions[signatures.SCORE], token_ids=token_ids, lengths=_full(rows, length - 1), state=state)


def _call(function: Any, **inputs: np.ndarray) -> dict[str, np.ndarray]:
    outputs = function(**{name: tf.constant(value) for name, value in inputs.items()})
    return {name: value.numpy() for name, value in outputs.items()}


def _full(rows: int, value: int) -> np.ndarray:
    return np.full(rows, value, np.int32)


def _log_probabilities(logits: np.ndarray, token_ids: np.ndarray) -> np.ndarray:
    """Return those of every token after the first, float32 (batch, T)."""
    every = tf.nn.log_softmax(logits).numpy()
    return np.take_along_axis(every, token_ids[:, 1:, None], axis=2)[:, :, 0]
