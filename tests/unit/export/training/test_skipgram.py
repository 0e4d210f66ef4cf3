"""Tokens that stand among the same neighbours come to lie near each other."""

import numpy as np
import pytest

from export.training import skipgram
from export.training.skipgram import skip_gram

# Two topics of six words each; a text is stretches of one topic and then the other.
NUM_SPECIAL, TOPIC = 3, 6
VOCAB = NUM_SPECIAL + 2 * TOPIC
IS_WORD = np.arange(VOCAB) >= NUM_SPECIAL
END = 2


@pytest.fixture
def keep_all(monkeypatch):
    """Frequent words are kept: of a dozen words every one is frequent."""
    monkeypatch.setattr(skipgram, "SAMPLE", 1.0)


def text_of_topics(tokens=3000, stretch=20, between=()):
    """Return ids in which words of a topic stand together."""
    rng = np.random.default_rng(0)
    pieces = [
        np.concatenate([NUM_SPECIAL + TOPIC * (i % 2) + rng.integers(0, TOPIC, stretch), between])
        for i in range(tokens // stretch)
    ]
    return np.concatenate(pieces).astype(np.int32)


def learn(ids, width=8, seed=0, end=None, echo=lambda line: None):
    return skip_gram(ids, IS_WORD, end, width, seed, echo)


def cosines(vectors):
    words = vectors[NUM_SPECIAL:]
    unit = words / np.linalg.norm(words, axis=1, keepdims=True)
    return unit @ unit.T


@pytest.mark.usefixtures("keep_all")
def test_words_of_the_same_contexts_lie_nearer_than_any_others():
    """In a text of two topics each word's nearest are those of its own topic."""
    cosine = cosines(learn(text_of_topics()))
    topic = np.arange(2 * TOPIC) // TOPIC
    alike = topic[:, None] == topic
    assert cosine[alike].min() > 2 * cosine[~alike].max()


@pytest.mark.usefixtures("keep_all")
def test_two_words_in_one_role_end_close_together():
    """They never stand beside each other, and have the same neighbours."""
    rng = np.random.default_rng(1)
    left, twin, other_twin, right = range(NUM_SPECIAL, NUM_SPECIAL + 4)
    others = [rng.integers(NUM_SPECIAL + 4, VOCAB, 8) for _ in range(600)]
    pieces = [[left, (twin, other_twin)[i % 2], right, *row] for i, row in enumerate(others)]
    cosine = cosines(learn(np.concatenate(pieces).astype(np.int32)))
    nearest = np.sort(cosine[twin - NUM_SPECIAL])[::-1]  # the first is the word itself
    assert nearest[1] == cosine[twin - NUM_SPECIAL, other_twin - NUM_SPECIAL] > nearest[2] + 0.2


def test_the_same_seed_gives_the_same_bits_and_another_one_others():
    """A training can be repeated."""
    ids = text_of_topics(2000)
    assert learn(ids).tobytes() == learn(ids).tobytes()
    assert learn(ids).tobytes() != learn(ids, seed=1).tobytes()


def test_what_is_no_word_keeps_its_beginning():
    """Padding and unknown words stand in the text all the same."""
    vectors = learn(text_of_topics(2000, between=(0, 1)))
    beginning = 0.5 / vectors.shape[1]
    assert np.abs(vectors[~IS_WORD]).max() <= beginning < np.abs(vectors[IS_WORD]).max()


@pytest.mark.parametrize(
    ("end", "ids", "expected"),
    [
        (None, [3, 0, 1, 4], [3, 4]),
        (None, [3, END, 4], [3, 4]),
        (END, [3, END, 4], [3, *[skipgram.GAP] * skipgram.WINDOW, 4]),
    ],
    ids=["no words", "a start token", "an end"],
)
@pytest.mark.usefixtures("keep_all")
def test_what_is_no_word_is_passed_over_but_no_window_spans_an_end(end, ids, expected):
    """Words around an unknown one are neighbours, those of two documents are not."""
    tokens = skipgram._subsample(np.array(ids, np.int32), np.where(IS_WORD, 1, 0), end, np.random.default_rng(0))
    assert tokens.tolist() == expected


def test_nothing_is_learnt_of_words_that_stand_alone():
    """A gap is nobody's neighbour, and where there are no neighbours there is no noise."""
    rng = np.random.default_rng(0)
    vectors = skipgram._Vectors.begin(VOCAB, 8, rng)
    block = np.full(skipgram.BLOCK + 2 * skipgram.WINDOW, skipgram.GAP)
    block[[30, 50]] = [NUM_SPECIAL, VOCAB - 1]
    before = vectors.tokens.copy()
    vectors.learn(block, np.full(skipgram.NOISE, NUM_SPECIAL + 1), rng, 0.3)
    assert (vectors.tokens == before).all()
    assert not vectors.contexts.any()


def test_frequent_words_are_thinned_out_and_rare_ones_are_not():
    """The share that is kept is word2vec's: √(t/f) + t/f."""
    counts = np.array([90_000, 9_590, 400, 10])
    ids = np.repeat(np.arange(3, 7, dtype=np.int32), counts)
    kept = skipgram._subsample(ids, np.bincount(ids, minlength=VOCAB), None, np.random.default_rng(0))
    ratio = 1e-3 / (counts / 100_000)
    expected = np.minimum(1, np.sqrt(ratio) + ratio)
    assert np.bincount(kept)[3:] / counts == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("tokens", [1, 127, 128, 129, 300])
def test_blocks_hold_every_token_once_and_what_stands_around_it(tokens):
    """A block's middle goes on where the last one ended, and its edges are the neighbours across."""
    ids = np.arange(tokens, dtype=np.int32)
    blocks = list(skipgram._blocks(ids))
    middles = np.concatenate([block[skipgram.WINDOW : -skipgram.WINDOW] for block in blocks])
    assert middles[:tokens].tolist() == ids.tolist()
    assert set(middles[tokens:]) <= {skipgram.GAP}
    around = np.concatenate([[skipgram.GAP] * 5, middles, [skipgram.GAP] * 5])
    for i, block in enumerate(blocks):
        assert block.tolist() == around[i * skipgram.BLOCK :][: len(block)].tolist()


@pytest.mark.parametrize(("length", "total"), [(25_000, 25_000), (25_000, 60_000), (25_000, 12_345), (10, 25)])
def test_each_pass_reads_every_token_once_and_no_more_than_the_total_are_read(length, total):
    """A long text is read in parts from everywhere, in another order each time."""
    segments = list(skipgram._segments(np.arange(length), total, np.random.default_rng(0)))
    counts = np.bincount(np.concatenate(segments), minlength=length)
    assert counts.sum() == total
    assert counts.max() <= -(-total // length)
    assert counts.min() >= total // length


def test_a_long_text_is_not_read_as_often(monkeypatch):
    """The work is bounded in tokens and width, not in minutes: the same text gives the same vectors on any machine."""
    lines = []
    ids = text_of_topics(2000)
    learn(ids, echo=lines.append)
    monkeypatch.setattr(skipgram, "MAX_WORK", 8 * 3000)
    learn(ids, echo=lines.append)
    assert lines[3].startswith("skip-gram: 100% of 20,000 tokens, ")
    assert lines[-1].startswith("skip-gram: 100% of 3,000 tokens, ")


def test_a_few_tokens_repeated_for_long_do_not_diverge():
    """Hundreds of gradients of one row are added up before a step, and the steps stay bounded."""
    vectors = learn(np.tile(np.array([3, 4], np.int32), 20_000))
    assert np.all(np.isfinite(vectors))
    assert np.abs(vectors).max() < 10
