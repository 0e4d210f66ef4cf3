"""Numerical verification of an exported SavedModel against its model, required before publishing; the cost of bfloat16.

Both call the signatures of a loaded SavedModel.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from contract import signatures
from contract.card import GeneratorCard, PrecisionCheck
from contract.tokenizers import Tokenizer
from export.errors import CheckFailed
from export.graphs.exportable import Exportable

# Tolerated difference of log probabilities, losses and outputs of layers.
TOLERANCE = 1e-4
# For bfloat16, whose factors have three digits: detects wrong graphs, not coarse ones. `check_precision` computes how
# much worse the model becomes.
BFLOAT16_TOLERANCE = 0.25
_BATCH_SIZE, _LENGTH = 8, 64
# Tokens to compare one by one: few, as rounding errors grow with each step in a network with large weights. The state
# matters from the second token on.
_COMPARED = 4
_EMBED_LENGTH = 8
_NUM_SAMPLED = 16
_SHARE_PADDING = 0.05
_CHECKED = (
    signatures.PREFILL,
    signatures.DECODE_FULL,
    signatures.SCORE,
    signatures.EMBED,
    signatures.INSPECT,
    signatures.NEXT_LOGPROBS,
)
# Sequences of `check_precision`, and tokens of each: 16,384 tokens, which two cores of an AMD EPYC score in less than a
# second.
_NUM_SCORED, _SCORED_LENGTH = 64, 256
_SAMPLED = {"temperature": np.float32(1), "top_k": np.int32(0), "top_p": np.float32(1), "min_p": np.float32(0)}

# The signatures of a version, by name.
Functions = Mapping[str, Callable[..., Mapping[str, tf.Tensor]]]


def check_saved_model(path: Path, model: Exportable, num_tokens: int) -> None:
    """Load a SavedModel and compare it with the model that it was exported from.

    The tokens are random. `score` must give the model's log probabilities of the first ones to 1e-4 · max(1, |log p|).
    The mean negative log likelihood of whole sequences must match to 1e-4 for `score` (in one call, and in two halves,
    the first by `prefill`) and for `serving_default`. `embed` must give the outputs of the model's top layer to 1e-4.
    The log probabilities of `decode_full` for the tokens that it samples, and those of `inspect`, must match `score` to
    1e-4, and so must those of `next_logprobs`. The last states of `inspect` must equal the state that it returns.
    Signatures in bfloat16 must match each other as closely, and the model to 0.25.

    Raises:
        CheckFailed: a value differs by more than its tolerance; the message gives the values or the difference.
    """
    functions = tf.saved_model.load(str(path)).signatures
    rng = np.random.default_rng(0)
    token_ids = rng.integers(0, num_tokens, (_BATCH_SIZE, _LENGTH + 1)).astype(np.int32)
    # Many models treat padding specially, and random ids of a vocabulary of 20,000 would hardly include it.
    token_ids[rng.random(token_ids.shape) < _SHARE_PADDING] = 0
    expected = _log_probabilities(model.logits(token_ids[:, :-1]), token_ids)
    logits = _call(functions[signatures.SERVING_DEFAULT], token_ids=token_ids[:, :-1])["logits"]
    _check_loss(signatures.SERVING_DEFAULT, _log_probabilities(logits, token_ids), expected, TOLERANCE)
    for precision, tolerance in ((signatures.FLOAT32, TOLERANCE), (signatures.BFLOAT16, BFLOAT16_TOLERANCE)):
        names = {name: signatures.in_precision(name, precision) for name in _CHECKED}
        variants = {name: functions[variant] for name, variant in names.items() if variant in functions}
        if variants:
            _check_signatures(variants, model, token_ids, expected, tolerance, rng)


def _check_signatures(
    functions: Functions,
    model: Exportable,
    token_ids: np.ndarray,
    expected: np.ndarray,
    tolerance: float,
    rng: np.random.Generator,
) -> None:
    """Check the signatures of one precision, named without it; the tolerance applies to the model's values."""
    state = np.zeros((_BATCH_SIZE, model.network.state_size), np.float32)
    scored = _read(functions[signatures.SCORE], token_ids, _LENGTH, state)["logprobs"]
    scale = np.maximum(1, np.abs(expected))[:, :_COMPARED]
    _check_close(
        f"{signatures.SCORE}: a log probability / max(1, |log p|)",
        scored[:, :_COMPARED] / scale,
        expected[:, :_COMPARED] / scale,
        tolerance,
    )
    _check_loss(signatures.SCORE, scored, expected, tolerance)
    half = _LENGTH // 2
    prefilled = _read(functions[signatures.PREFILL], token_ids[:, :half], half, state)["state"]
    rest = _read(functions[signatures.SCORE], token_ids[:, half:], half, prefilled)["logprobs"]
    _check_loss(f"{signatures.PREFILL} and {signatures.SCORE}", rest, scored[:, half:], TOLERANCE)
    following = _read(functions[signatures.NEXT_LOGPROBS], token_ids[:, half : half + 1], 1, prefilled)["logprobs"]
    following = np.take_along_axis(following[:, 0], token_ids[:, half + 1, None], axis=1)[:, 0]
    _check_close(f"{signatures.NEXT_LOGPROBS}: a log probability", following, rest[:, 0])
    if model.tops is not None:
        tops = model.tops(token_ids[:, :_EMBED_LENGTH])
        total = np.zeros((_BATCH_SIZE, model.network.output_size), np.float32)
        embedded = _read(functions[signatures.EMBED], token_ids[:, :_EMBED_LENGTH], _EMBED_LENGTH, state, sum=total)
        _check_close(f"{signatures.EMBED}: sum", embedded["sum"] / _EMBED_LENGTH, tops.mean(axis=1), tolerance)
        _check_close(f"{signatures.EMBED}: last", embedded["last"], tops[:, -1], tolerance)
    _check_inspect(functions, model, token_ids[:, :half], state)
    _check_decode_full(functions, model, token_ids[:, half], prefilled, rng)


def _check_close(name: str, actual: np.ndarray, expected: np.ndarray, tolerance: float = TOLERANCE) -> None:
    difference = np.abs(actual - expected).max()
    if not difference <= tolerance:
        raise CheckFailed(f"{name} differs by {difference:.2e}, over {tolerance:g}")


def _check_loss(name: str, actual: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    if not abs(actual.mean() - expected.mean()) <= tolerance:
        raise CheckFailed(
            f"{name}: mean negative log likelihood {-actual.mean()}, but the model gives {-expected.mean()}"
        )


def _check_inspect(functions: Functions, model: Exportable, token_ids: np.ndarray, state: np.ndarray) -> None:
    """Compare the log probabilities with `score`, and the last states with the returned state."""
    length = token_ids.shape[1] - 1
    inspected, scored = (
        _read(functions[name], token_ids, length, state) for name in (signatures.INSPECT, signatures.SCORE)
    )
    for name in ("logprobs", "top_logprobs", "state"):
        _check_close(f"{signatures.INSPECT}: {name}", inspected[name], scored[name])
    states = [each.output for each in model.network.activations if each.kind in (signatures.HIDDEN, signatures.CELL)]
    if states:
        last = np.concatenate([inspected[name][:, -1] for name in states], axis=1)
        _check_close(f"{signatures.INSPECT}: states", last, inspected["state"])


def _check_decode_full(
    functions: Functions, model: Exportable, token_id: np.ndarray, state: np.ndarray, rng: np.random.Generator
) -> None:
    """Sample with every adjustment on, without a constraint, and compare the log probabilities with `score`."""
    columns = {
        **dict.fromkeys(("steps", "min_steps"), np.int32(_NUM_SAMPLED)),
        **_SAMPLED,
        **dict.fromkeys(("presence_penalty", "frequency_penalty"), np.float32(0.5)),
        "repetition_penalty": np.float32(1.2),
        "row": np.int32(signatures.UNCONSTRAINED_ROW),
        "budget": np.int32(signatures.FORBIDDEN_DISTANCE),
        "num_top": np.int32(signatures.NUM_TOP),
    }
    sampled = _call(
        functions[signatures.DECODE_FULL],
        token_id=token_id,
        state=state,
        uniforms=rng.integers(0, 2**23, (_BATCH_SIZE, _NUM_SAMPLED)).astype(np.float32) / np.float32(2**23),
        adjusted_ids=token_id[:, None],
        transitions=np.zeros((1, model.network.vocab_size), np.int32),
        continuations=np.zeros(1, np.int32),
        **dict.fromkeys(("counts", "seen", "bias"), np.ones((_BATCH_SIZE, 1), np.float32)),
        **{name: np.full(_BATCH_SIZE, value) for name, value in columns.items()},
    )
    token_ids = np.concatenate([token_id[:, None], sampled["token_ids"]], axis=1)
    for name, expected in _read(functions[signatures.SCORE], token_ids, _NUM_SAMPLED, state).items():
        # Equally probable tokens may be in any order.
        if name != "top_token_ids":
            _check_close(f"{signatures.DECODE_FULL}: {name}", sampled[name], expected)


def check_precision(
    functions: Functions, tokenizer: Tokenizer, documents: Sequence[str], card: GeneratorCard
) -> PrecisionCheck:
    """Compute the loss of the signatures in float32 and in bfloat16, each carrying its own state, for the card.

    At most 16,384 tokens of the documents, which are held out, are used; if there are fewer than 256, tokens sampled
    from the model instead.
    """
    token_ids, text = _encode(tokenizer, documents, backward=card.direction == "backward"), "held_out"
    lengths = np.full(len(token_ids), _SCORED_LENGTH, np.int32)
    if not len(token_ids):
        token_ids, lengths = _sample(functions, tokenizer, card.state_size)
        text = "sampled"
    state = np.zeros((len(token_ids), card.state_size), np.float32)
    losses = {}
    for precision in (signatures.FLOAT32, signatures.BFLOAT16):
        score = functions[signatures.in_precision(signatures.SCORE, precision)]
        num_top = np.zeros_like(lengths)
        logprobs = _call(score, token_ids=token_ids, lengths=lengths, state=state, num_top=num_top)["logprobs"]
        losses[precision] = float(-logprobs.sum(dtype=np.float64) / lengths.sum())
    return PrecisionCheck(text=text, tokens=int(lengths.sum()), **losses)


def _encode(tokenizer: Tokenizer, documents: Sequence[str], *, backward: bool) -> np.ndarray:
    """Return token ids int32 (batch, 257) of the documents, one after another, each with its end token."""
    end = [] if tokenizer.special.end is None else [tokenizer.special.end]
    ids: list[int] = []
    for document in documents:
        if len(ids) >= _NUM_SCORED * (_SCORED_LENGTH + 1):
            break
        ids += [*tokenizer.encode(document)[:: -1 if backward else 1], *end]
    num_rows = min(_NUM_SCORED, len(ids) // (_SCORED_LENGTH + 1))
    return np.array(ids[: num_rows * (_SCORED_LENGTH + 1)], np.int32).reshape(num_rows, _SCORED_LENGTH + 1)


def _sample(functions: Functions, tokenizer: Tokenizer, state_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return sampled token ids int32 (64, T + 1), after the start token, and how many of each sequence to score."""
    rng = np.random.default_rng(0)
    last, state = np.full(_NUM_SCORED, tokenizer.special.start, np.int32), np.zeros((_NUM_SCORED, state_size), "f4")
    parts, ended = [last[:, None]], np.zeros(_NUM_SCORED, bool)
    for _ in range(_SCORED_LENGTH // signatures.MAX_DECODE_STEPS):
        decoded = _call(
            functions[signatures.DECODE],
            token_id=last,
            state=state,
            uniforms=rng.random((_NUM_SCORED, signatures.MAX_DECODE_STEPS), dtype=np.float32),
            steps=np.where(ended, 0, signatures.MAX_DECODE_STEPS).astype(np.int32),
            **{name: np.full(_NUM_SCORED, value) for name, value in _SAMPLED.items()},
        )
        sampled, state = decoded["token_ids"], decoded["state"]
        parts.append(sampled)
        last, ended = sampled[:, -1], ended | (sampled == tokenizer.special.end).any(axis=1)
    token_ids = np.concatenate(parts, axis=1)
    is_end = token_ids[:, 1:] == tokenizer.special.end
    lengths = np.where(is_end.any(axis=1), is_end.argmax(axis=1) + 1, token_ids.shape[1] - 1)
    return token_ids, lengths.astype(np.int32)


def _read(function: Any, token_ids: np.ndarray, length: int, state: np.ndarray, **more: np.ndarray) -> dict[str, Any]:
    """Call a signature that processes equally many tokens of each sequence."""
    lengths = np.full(len(token_ids), length, np.int32)
    specs = function.structured_input_signature[1]
    for name in {"num_top", "num_ahead", "row", "logprob", "transitions"} & specs.keys():
        shape = [size or len(token_ids) for size in specs[name].shape]
        more[name] = np.full(shape, signatures.NUM_TOP if name == "num_top" else 0, specs[name].dtype.as_numpy_dtype)
    return _call(function, token_ids=token_ids, lengths=lengths, state=state, **more)


def _call(function: Any, **inputs: np.ndarray) -> dict[str, Any]:
    outputs = function(**{name: tf.constant(value) for name, value in inputs.items()})
    return {name: value.numpy() for name, value in outputs.items()}


def _log_probabilities(logits: np.ndarray, token_ids: np.ndarray) -> np.ndarray:
    """Return the log probability of each token after the first, float32 (batch, T)."""
    log_probabilities = tf.nn.log_softmax(logits).numpy()
    return np.take_along_axis(log_probabilities, token_ids[:, 1:, None], axis=2)[:, :, 0]
