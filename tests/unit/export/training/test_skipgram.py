"""Skip-gram gives similar vectors to tokens with similar neighbours."""

import numpy as np
import pytest

from export.training import skipgram
from export.training.skipgram import skip_gram

# Two topics of six words each; a text alternates between stretches of one and of the other.
NUM_SPECIAL, TOPIC = 3, 6
VOCAB = NUM_SPECIAL + 2 * TOPIC
IS_WORD = np.arange(VOCAB) >= NUM_SPECIAL
END = 2


@pytest.fixture
def keep_all(monkeypatch):
    """Disable subsampling: in a vocabulary of a dozen words, every word is frequent."""
    monkeypatch.setattr(skipgram, "SAMPLE", 1.0)


def text_of_topics(tokens=3000, stretch=20, between=()):
    """Return ids in which words of one topic occur together."""
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
def test_words_of_one_topic_are_more_similar_than_words_of_two():
    """The least cosine within a topic is more than twice the greatest across topics."""
    cosine = cosines(learn(text_of_topics()))
    topic = np.arange(2 * TOPIC) // TOPIC
    alike = topic[:, None] == topic
    assert cosine[alike].min() > 2 * cosine[~alike].max()


@pytest.mark.usefixtures("keep_all")
def test_interchangeable_words_become_nearest_neighbours():
    """They never occur beside each other, but have the same neighbours."""
    rng = np.random.default_rng(1)
    left, twin, other_twin, right = range(NUM_SPECIAL, NUM_SPECIAL + 4)
    others = [rng.integers(NUM_SPECIAL + 4, VOCAB, 8) for _ in range(600)]
    pieces = [[left, (twin, other_twin)[i % 2], right, *row] for i, row in enumerate(others)]
    cosine = cosines(learn(np.concatenate(pieces).astype(np.int32)))
    nearest = np.sort(cosine[twin - NUM_SPECIAL])[::-1]  # the first is the word itself
    assert nearest[1] == cosine[twin - NUM_SPECIAL, other_twin - NUM_SPECIAL] > nearest[2] + 0.2


def test_vectors_are_bit_exact_for_a_seed_and_differ_between_seeds():
    """So a training run is reproducible."""
    ids = text_of_topics(2000)
    assert learn(ids).tobytes() == learn(ids).tobytes()
    assert learn(ids).tobytes() != learn(ids, seed=1).tobytes()


def test_tokens_that_are_not_words_are_not_trained():
    """Their values stay in the range of the initialization, though padding and unknown tokens occur in the text."""
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
def test_other_tokens_are_skipped_and_an_end_token_becomes_a_gap(end, ids, expected):
    """Words around an unknown token are neighbours; words of two documents are not."""
    tokens = skipgram._subsample(np.array(ids, np.int32), np.where(IS_WORD, 1, 0), end, np.random.default_rng(0))
    assert tokens.tolist() == expected


def test_words_without_neighbours_are_not_trained():
    """A gap is no neighbour, and without neighbours there are no negative samples."""
    rng = np.random.default_rng(0)
    vectors = skipgram._Vectors.begin(VOCAB, 8, rng)
    block = np.full(skipgram.BLOCK + 2 * skipgram.WINDOW, skipgram.GAP)
    block[[30, 50]] = [NUM_SPECIAL, VOCAB - 1]
    before = vectors.tokens.copy()
    vectors.learn(block, np.full(skipgram.NOISE, NUM_SPECIAL + 1), rng, 0.3)
    assert (vectors.tokens == before).all()
    assert not vectors.contexts.any()


def test_frequent_words_are_subsampled_and_rare_ones_kept():
    """The keep probability is word2vec's: √(t/f) + t/f."""
    counts = np.array([90_000, 9_590, 400, 10])
    ids = np.repeat(np.arange(3, 7, dtype=np.int32), counts)
    kept = skipgram._subsample(ids, np.bincount(ids, minlength=VOCAB), None, np.random.default_rng(0))
    ratio = 1e-3 / (counts / 100_000)
    expected = np.minimum(1, np.sqrt(ratio) + ratio)
    assert np.bincount(kept)[3:] / counts == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("tokens", [1, 127, 128, 129, 300])
def test_blocks_have_every_token_once_with_its_context(tokens):
    """The middle of a block continues that of the previous one; its edges are the neighbours across the boundary."""
    ids = np.arange(tokens, dtype=np.int32)
    blocks = list(skipgram._blocks(ids))
    middles = np.concatenate([block[skipgram.WINDOW : -skipgram.WINDOW] for block in blocks])
    assert middles[:tokens].tolist() == ids.tolist()
    assert set(middles[tokens:]) <= {skipgram.GAP}
    around = np.concatenate([[skipgram.GAP] * 5, middles, [skipgram.GAP] * 5])
    for i, block in enumerate(blocks):
        assert block.tolist() == around[i * skipgram.BLOCK :][: len(block)].tolist()


@pytest.mark.parametrize(("length", "total"), [(25_000, 25_000), (25_000, 60_000), (25_000, 12_345), (10, 25)])
def test_each_pass_reads_every_token_once_up_to_the_total(length, total):
    """A long text is read in segments from all parts of it, shuffled anew in each pass."""
    segments = list(skipgram._segments(np.arange(length), total, np.random.default_rng(0)))
    counts = np.bincount(np.concatenate(segments), minlength=length)
    assert counts.sum() == total
    assert counts.max() <= -(-total // length)
    assert counts.min() >= total // length


def test_a_long_text_gets_fewer_passes(monkeypatch):
    """The work is limited in tokens × width, not in minutes: the same text gives the same vectors on any machine."""
    lines = []
    ids = text_of_topics(2000)
    learn(ids, echo=lines.append)
    monkeypatch.setattr(skipgram, "MAX_WORK", 8 * 3000)
    learn(ids, echo=lines.append)
    assert lines[3].startswith("skip-gram: 100% of 20,000 tokens, ")
    assert lines[-1].startswith("skip-gram: 100% of 3,000 tokens, ")


def test_a_repetitive_text_does_not_diverge():
    """Hundreds of gradients of one vector are summed before an update, and updates stay bounded."""
    vectors = learn(np.tile(np.array([3, 4], np.int32), 20_000))
    assert np.all(np.isfinite(vectors))
    assert np.abs(vectors).max() < 10
