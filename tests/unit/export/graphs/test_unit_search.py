"""The unit search finds units that follow a feature of held-out text, one of each kind, and no chance ones."""

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from contract.card import Activation
from contract.tokenizers import CharacterTokenizer, SubwordTokenizer, WordTokenizer
from export.graphs.unit_search import FEATURES, _lay_out, find_discoveries

SCENE = '[Enter ANN, with "a (very) old owl"]\n\nANN.\nThe owl, sir, is in 1 bag.\n'
DOCUMENTS = [SCENE * 100] * 3
STATE_SIZE = 4


def planted(features, *, flips=(), followers=(), hidden=0.0):
    """Return a fake of `inspect`: noise, and a unit per feature, whose sign flips halfway for those in `flips`.

    `followers` has more units that follow "line": the amount of noise in each half. The hidden state is constant.
    """
    rng, num_read = np.random.default_rng(0), 0
    behind_line = behind(CharacterTokenizer.train(SCENE))["line"]

    def inspect(lengths, **_):
        nonlocal num_read
        rows = slice(num_read, num_read + len(lengths))
        values = rng.normal(size=(len(lengths), int(lengths[0]), 40)).astype(np.float32)
        for unit, name in enumerate(features):
            sign = -1 if name in flips and num_read >= len(features[name]) // 2 else 1
            values[..., unit] = sign * features[name][rows] + 0.1 * values[..., unit]
        for unit, noise in enumerate(followers, 20):
            half = int(num_read >= len(behind_line) // 2)
            values[..., unit] = behind_line[rows] / behind_line.std() + noise[half] * values[..., unit]
        num_read += len(lengths)
        return {"cell_1": tf.constant(values), "hidden_1": tf.zeros_like(values) + tf.constant(hidden, tf.float32)}

    return inspect


def behind(tokenizer, *, backward=False):
    """Return each feature after the tokens that `inspect` reads, computed by itself."""
    ids = [tokenizer.encode(document) for document in DOCUMENTS]
    num_sequences = sum(map(len, ids)) // 1025
    values = {}
    for name, feature in FEATURES.items():
        flat = [value for document in DOCUMENTS for value in [*feature(document)][:: -1 if backward else 1]]
        values[name] = np.array(flat[: num_sequences * 1025], np.float32).reshape(-1, 1025)[:, :1024]
    return values


def search(inspect, tokenizer, documents=DOCUMENTS, *, backward=False):
    """Return the discoveries of a model with hidden and cell state."""
    activations = [Activation("hidden", 1, 40), Activation("cell", 1, 40), Activation("forget", 1, 40)]
    direction = "backward" if backward else "forward"
    card = SimpleNamespace(activations=activations, state_size=STATE_SIZE, direction=direction)
    return find_discoveries(inspect, tokenizer, documents, card)


@pytest.mark.parametrize("backward", [False, True])
def test_one_unit_of_each_kind_of_feature_is_found(backward):
    tokenizer = CharacterTokenizer.train(SCENE)
    features = behind(tokenizer, backward=backward)
    found = search(planted(features), tokenizer, backward=backward)
    assert [(each.layer, each.kind) for each in found] == [(1, "cell")] * 3
    names = [each.feature for each in found]
    assert names[0] in ("brackets", "quotes")
    assert names[1:] == ["line", "upper"]
    assert [each.unit for each in found] == [[*features].index(name) for name in names]
    assert all(each.strength > 0.9 for each in found)


def test_a_correlation_that_does_not_hold_is_no_discovery():
    """Nor are units of noise, of which the best of a thousand correlates with anything on one half."""
    tokenizer = CharacterTokenizer.train(SCENE)
    features = behind(tokenizer)
    found = search(planted({"line": features["line"], "upper": features["upper"]}, flips=("line",)), tokenizer)
    assert [each.feature for each in found] == ["upper"]


def test_the_first_half_alone_chooses_the_unit():
    """One that correlates more in the second half, or in its weaker half, is not chosen for that."""
    found = search(planted({}, followers=[(0.2, 1.0), (0.6, 0.2)]), CharacterTokenizer.train(SCENE))
    # The text's position in the line tells much about its quotation marks.
    assert [(each.feature, each.unit) for each in found] == [("quotes", 20), ("line", 20)]
    assert found[1].ranked > 0.95
    assert 0.6 < found[1].validated < 0.9


def test_the_second_half_is_a_validation_of_one_unit():
    """If the chosen unit does not hold there, no other one takes its place."""
    assert search(planted({}, followers=[(0.2, 9.0), (0.6, 0.2)]), CharacterTokenizer.train(SCENE)) == ()


def test_constant_units_have_no_correlation():
    """Whatever rounding does to the sum of their squares: a root of a negative number would be a warning."""
    constants = np.linspace(0.01, 3, 40)
    assert search(planted({}, hidden=constants), CharacterTokenizer.train(SCENE)) == ()


def test_a_short_text_has_no_discoveries():
    tokenizer = CharacterTokenizer.train(SCENE)
    assert search(None, tokenizer, [SCENE]) == ()


def test_words_are_separated_as_in_a_generated_text():
    _, features = _lay_out(WordTokenizer.train(["the cat"]), ["the cat " * 600], backward=False)
    assert features[[*FEATURES].index("word")].max() == len("cat")


def test_bytes_of_an_incomplete_character_are_no_text():
    """Their labels have digits and letters."""
    tokenizer = SubwordTokenizer.train(["a b "], vocab_size=259)
    _, features = _lay_out(tokenizer, ["€ " * 600], backward=False)
    assert features[[*FEATURES].index("word")].max() == 0


def test_a_feature_is_the_value_after_each_character():
    told = {name: "".join(str(int(value)) for value in feature('a(b)"c" AB\nc')) for name, feature in FEATURES.items()}
    assert told == {
        "brackets": "011000000000",
        "quotes": "000011000000",
        "line": "1234567891001",
        "word": "101001001201",
        "upper": "000000000100",
    }
