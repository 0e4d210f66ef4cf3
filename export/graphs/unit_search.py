"""Unit search: finds individual units that follow a feature of held-out text; the best ones are in the card.

The unit of a feature is chosen on the first half of the text and validated on the second. The inspector's page chooses
the discoveries of its text in the same way, by the same features (`static/features.js`).
"""

import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import tensorflow as tf

from contract import signatures
from contract.card import Activation, Discovery, GeneratorCard
from contract.tokenizers import Tokenizer
from contract.tokenizers.byte_level import PARTIAL

# Sequences and tokens of each. A call with all of them would take 200 MB for the states and gates of an LSTM of 512
# units.
_NUM_SEQUENCES, _LENGTH, _BATCH_SIZE = 16, 1024, 4
# Less, in either half, is chance or useless: 0.35 explains an eighth of a feature's variance.
MIN_CORRELATION = 0.35
# Features by name, in groups of a kind, those that need the longest memory first. Whether the last character is a
# space, a capital or a digit needs no memory at all, and is not among them.
KINDS = (("brackets", "quotes"), ("line", "word"), ("upper",))

# The value after each character of a text.
Feature = Callable[[str], Iterator[int]]


def find_discoveries(
    inspect: Callable[..., Mapping[str, tf.Tensor]], tokenizer: Tokenizer, documents: Sequence[str], card: GeneratorCard
) -> tuple[Discovery, ...]:
    """Return a unit that follows a feature of each kind, if the correlation holds in the second half of the text.

    Each feature has one candidate: the unit with the highest correlation in the first half. It holds with the same sign
    and at least MIN_CORRELATION in both halves. The second half chooses nothing: `validated` is no maximum over units.
    The documents are held-out text; with fewer than 16,384 tokens there are fewer sequences or none.
    """
    token_ids, features = _lay_out(tokenizer, documents, backward=card.direction == "backward")
    half = len(token_ids) // 2
    if not half:
        return ()
    states = [each for each in card.activations if each.kind in (signatures.HIDDEN, signatures.CELL)]
    halves = [
        _correlations(inspect, token_ids[rows], features[:, rows], states, card.state_size)
        for rows in (slice(half), slice(half, None))
    ]
    best: dict[str, Discovery] = {}
    for each in states:
        for name, ranked, validated in zip(FEATURES, *(of_half[each] for of_half in halves), strict=True):
            unit = int(np.argmax(np.abs(ranked)))
            found = Discovery(
                feature=name,
                layer=each.layer,
                kind=each.kind,
                unit=unit,
                ranked=round(float(ranked[unit]), 3),
                validated=round(float(validated[unit]), 3),
            )
            if name not in best or abs(found.ranked) > abs(best[name].ranked):
                best[name] = found
    held = {name: found for name, found in best.items() if found.strength >= MIN_CORRELATION}
    of_kinds = ([held[name] for name in kind if name in held] for kind in KINDS)
    return tuple(max(some, key=lambda each: abs(each.ranked)) for some in of_kinds if some)


def _lay_out(tokenizer: Tokenizer, documents: Sequence[str], *, backward: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return token ids int32 (batch, T + 1), and the features after each token but the last, float32 (F, batch, T)."""
    # After another word, so that a separator is before each.
    label, step = tokenizer.detokenizer("a").label, -1 if backward else 1
    ids: list[int] = []
    values: list[list[int]] = [[] for _ in FEATURES]
    for document in documents:
        if len(ids) >= _NUM_SEQUENCES * (_LENGTH + 1):
            break
        encoded = tokenizer.encode(document)
        labels = ["" if token_id in tokenizer.textless_ids else label(token_id) for token_id in encoded]
        texts = ["" if text.startswith(PARTIAL) else text for text in labels]
        text = "".join(texts)
        if not text:
            continue
        ends = np.maximum(np.cumsum([len(text) for text in texts], dtype=int) - 1, 0)
        ids += encoded[::step]
        for after, feature in zip(values, FEATURES.values(), strict=True):
            after.extend(np.array([*feature(text)])[ends][::step].tolist())
    num_sequences = min(_NUM_SEQUENCES, len(ids) // (_LENGTH + 1))
    cut, shape = slice(num_sequences * (_LENGTH + 1)), (num_sequences, _LENGTH + 1)
    features = np.array([after[cut] for after in values], np.float32).reshape(len(FEATURES), *shape)
    return np.array(ids[cut], np.int32).reshape(shape), features[:, :, :_LENGTH]


def _correlations(
    inspect: Callable[..., Mapping[str, tf.Tensor]],
    token_ids: np.ndarray,
    features: np.ndarray,
    states: Sequence[Activation],
    state_size: int,
) -> dict[Activation, np.ndarray]:
    """Return Pearson's correlation of each feature with each unit, float64 (F, units); 0 where either is constant."""
    y = features.reshape(len(features), -1).astype(np.float64)
    y -= y.mean(axis=1, keepdims=True)
    # For each unit: its sum, the sum of its squares, and the sums of its products with the features.
    sums = {each: np.zeros((2 + len(y), each.units)) for each in states}
    for start in range(0, len(token_ids), _BATCH_SIZE):
        batch = token_ids[start : start + _BATCH_SIZE]
        lengths, state = tf.fill([len(batch)], _LENGTH), tf.zeros([len(batch), state_size])
        outputs = inspect(token_ids=tf.constant(batch), lengths=lengths, state=state)
        of_batch = y[:, start * _LENGTH : (start + len(batch)) * _LENGTH]
        for each in states:
            x = outputs[each.output].numpy().reshape(-1, each.units).astype(np.float64)
            sums[each] += np.vstack([x.sum(axis=0), (x * x).sum(axis=0), of_batch @ x])
    found = {}
    for each, (total, squares, *products) in sums.items():
        # The sum of squared deviations; rounding can make it negative for a constant unit.
        variation = np.maximum(0, squares - total * total / y.shape[1])
        # The feature's mean is 0, so the unit's mean cancels in the products.
        spread = np.sqrt((y * y).sum(axis=1)[:, None] * variation)
        found[each] = np.divide(products, spread, out=np.zeros_like(spread), where=spread > 1e-6)
    return found


def _counter(is_start: Callable[[str], bool]) -> Feature:
    """Return a feature that counts characters from 0 where `is_start`."""

    def feature(text: str) -> Iterator[int]:
        count = 0
        for character in text:
            count = 0 if is_start(character) else count + 1
            yield count

    return feature


def _brackets(text: str) -> Iterator[int]:
    depth = 0
    for character in text:
        depth = max(0, depth + (character in "([{") - (character in ")]}"))
        yield depth


def _quotes(text: str) -> Iterator[int]:
    is_open = False
    for character in text:
        if character == '"':
            is_open = not is_open
        elif character in "“«„":
            is_open = True
        elif character in "”»":
            is_open = False
        yield is_open


def _upper(text: str) -> Iterator[int]:
    before = False
    for character in text:
        is_upper = unicodedata.category(character) == "Lu"
        yield is_upper and before
        before = is_upper


FEATURES: dict[str, Feature] = {
    "brackets": _brackets,
    "quotes": _quotes,
    "line": _counter(lambda character: character == "\n"),
    "word": _counter(lambda character: character != "_" and unicodedata.category(character)[0] not in "LMN"),
    "upper": _upper,
}
