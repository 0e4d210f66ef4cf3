"""An embedding starts from the vectors that a file has, or the corpus gives, for the texts of its tokens."""

import gzip
import tracemalloc

import numpy as np
import pytest

from contract.tokenizer import CharacterTokenizer, ExactWordTokenizer, SubwordTokenizer, WordTokenizer
from export.errors import ConfigError, CorpusError
from export.training import embeddings, skipgram
from export.training.embeddings import initial_embedding

WIDTH = 3
NO_IDS = np.zeros(0, np.int32)
TEXT = "the cat sat on the mat and the dog ran"
# Name → line of a file. None of its numbers is 0, and no two are alike.
VECTORS = {"the": "1 2 3", "cat": "4 5 6", "sat": "-7e-1 8.5 +9", "zebra": "10 11 12", ",": "13 14 15"}
LINES = [f"{token} {values}" for token, values in VECTORS.items()]


@pytest.fixture
def words():
    return WordTokenizer.train([TEXT])


def start(source, tokenizer, ids=NO_IDS, width=WIDTH, seed=0):
    """Return the embedding and what was said."""
    said = []
    return initial_embedding(str(source), tokenizer, ids, width, seed, said.append), said


def rows(embedding, tokenizer, *texts):
    return [embedding[tokenizer.tokens.index(text)].tolist() for text in texts]


def write(path, lines, end="\n"):
    path.write_bytes("".join(line + end for line in lines).encode())
    return path


def projector(folder, lines, labels):
    write(folder / "metadata.tsv", labels)
    return write(folder / "vectors.tsv", lines)


FORMS = {
    "GloVe": LINES,
    "word2vec": [f"5 {WIDTH}", *LINES],
    "a space at the end": [line + " " for line in LINES],
    "tabs": [line.replace(" ", "\t") for line in LINES],
    "several spaces": [line.replace(" ", "  ") for line in LINES],
    "blank lines": [line for pair in zip(LINES, [""] * 5, strict=True) for line in pair],
    "a byte order mark": ["\ufeff" + LINES[0], *LINES[1:]],
    "tokens with spaces": [LINES[0], ". . . 1 2 3", "  1 2 3", *LINES[1:]],
    "a word twice": [*LINES, "the 7 7 7"],
}


@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_text_gives_the_same_vectors(tmp_path, words, form, end, compressed):
    """Who made the file, and how it is set, does not matter."""
    path = write(tmp_path / "v.txt", FORMS[form], end)
    if compressed:
        path.write_bytes(gzip.compress(path.read_bytes()))
    embedding, _ = start(path, words)
    assert (embedding.dtype, embedding.shape) == (np.float32, (len(words.tokens), WIDTH))
    expected = np.array([[1, 2, 3], [4, 5, 6], [-0.7, 8.5, 9]], np.float32).tolist()
    assert rows(embedding, words, "the", "cat", "sat") == expected


@pytest.mark.parametrize(
    "labels", [["cat", "the", " mat"], ["word\tcount", "cat\t3", "the\t9", " mat\t1"]], ids=["one column", "titles"]
)
def test_a_projectors_pair_is_read_together(tmp_path, words, labels):
    """The tokens lie beside the vectors, with titles if there are several columns."""
    path = projector(tmp_path, ["1\t2\t3", "4\t5\t6", "7\t8\t9"], labels)
    embedding, _ = start(path, words)
    assert rows(embedding, words, "cat", "the", "mat")[:2] == [[1, 2, 3], [4, 5, 6]]


def test_a_word_with_its_space_has_the_vector_of_the_word_unless_it_has_its_own(tmp_path):
    """Files from elsewhere have no words with spaces; what was written of an exact vocabulary has."""
    tokenizer = ExactWordTokenizer.train(["The cat\nThe cat. The cat. The cat"])
    path = write(tmp_path / "v.txt", ["The 1 2 3", " cat 4 5 6", "cat 7 8 9"])
    embedding, _ = start(path, tokenizer)
    assert rows(embedding, tokenizer, "The", " The", " cat") == [[1, 2, 3], [1, 2, 3], [4, 5, 6]]


def test_characters_are_found_but_for_white_space(tmp_path):
    """A space, a tab or a line feed cannot be told in such a file, and a line of one is no error."""
    tokenizer = CharacterTokenizer.train("ab é\t\n")
    lines = ["a 1 2 3", "  7 7 7", "\t 7 7 7", "", " 7 7 7", "é 4 5 6"]
    embedding, said = start(write(tmp_path / "v.txt", lines), tokenizer)
    assert rows(embedding, tokenizer, "a", "é") == [[1, 2, 3], [4, 5, 6]]
    assert 7 not in embedding
    assert "2 of 6 tokens (33.3%)" in said[-1]


def test_subwords_are_found_by_their_text_where_it_is_whole_characters(tmp_path):
    """The vocabulary writes bytes in an alphabet of its own; half a character is no text."""
    tokenizer = SubwordTokenizer.train(["über über über"], vocab_size=268)
    lines = ["über 1 2 3", "b 4 5 6", "Ã 7 7 7", "\ufffd 7 7 7", "Ġ 7 7 7"]
    embedding, _ = start(write(tmp_path / "v.txt", lines), tokenizer)
    assert rows(embedding, tokenizer, "Ġ" + "Ã¼ber", "b") == [[1, 2, 3], [4, 5, 6]]
    assert 7 not in embedding


def test_what_is_not_found_starts_like_what_is_and_special_tokens_as_with_keras(tmp_path):
    """The normal distribution has the mean and the deviation of the vectors found."""
    tokenizer = WordTokenizer.train([" ".join(f"w{i}" for i in range(2000))])
    rng = np.random.default_rng(0)
    table = rng.normal(2, 0.5, (1000, 8))
    lines = [f"w{i} " + " ".join(map(repr, map(float, row))) for i, row in enumerate(table)]
    embedding, _ = start(write(tmp_path / "v.txt", ["<pad>" + " 9" * 8, *lines]), tokenizer, width=8)
    special = [i for i, token in enumerate(tokenizer.tokens) if not token.startswith("w")]
    missing = [i for i, token in enumerate(tokenizer.tokens) if token.startswith("w") and int(token[1:]) >= 1000]
    assert embedding[missing].mean() == pytest.approx(2, abs=0.03)
    assert embedding[missing].std() == pytest.approx(0.5, rel=0.03)
    assert 0 < np.abs(embedding[special]).max() <= 0.05


def test_how_much_was_found_is_told_with_some_of_what_was_not(tmp_path, words):
    """The most frequent of it, by which one sees why."""
    _, said = start(write(tmp_path / "v.txt", LINES), words)
    assert said == [
        f"embedding from {tmp_path}/v.txt: vectors of 3 of 8 tokens (37.5%); it has no 'on', 'mat', 'and', 'dog', 'ran'"
    ]


@pytest.mark.parametrize("seed", [0, 1])
def test_the_same_seed_draws_the_same(tmp_path, words, seed):
    """Vectors found do not depend on it, and the others do."""
    path = write(tmp_path / "v.txt", LINES)
    embedding, _ = start(path, words, seed=seed)
    again, _ = start(path, words, seed=seed)
    other, _ = start(path, words, seed=2)
    assert embedding.tobytes() == again.tobytes()
    assert (embedding == other).all(axis=1).sum() == 3


BAD = {
    "empty": (b"", "it has none of the 8 tokens of the vocabulary: 'the', 'cat'"),
    "other words": (b"x 1 2 3\ny 4 5 6\n", "it has none of the 8 tokens of the vocabulary: 'the', 'cat', "),
    "another width": (b"the 1 2\n", "its vectors have 2 values, and embedding is 3; give --embedding 2"),
    "another width in the title": (b"9 300\nthe 1 2 3\n", "have 300 values, and embedding is 3; give --embedding 300"),
    "a word alone": (b"the\ncat\n", "line 1: a token and its values are expected"),
    "too few": (b"the 1 2 3\ncat 1 2\n", "line 2: 3 values are expected, as in the lines before it, got 2"),
    "too many": (b"the 1 2 3\nx 1 2 3 4\n", "line 2: 3 values are expected, as in the lines before it, got 4"),
    "none": (b"the 1 2 3\n\nx\n", "line 3: 3 values are expected, as in the lines before it, got 0"),
    "no number": (b"the 1 2 3\ncat 1 two 3\n", "line 2: 'two' is not a number"),
    "NaN": (b"2 3\nthe 1 2 3\ncat 1 nan 3\n", "line 3: 'nan' is not a number that float32 can hold"),
    "too large": (b"the 1 2 1e39\n", "line 1: '1e39' is not a number that float32 can hold"),
    "binary": (b"3 3\nthe \0\1\2\3\n", "this is binary, not text"),
    "Latin-1": ("the 1 2 3\nétude 4 5 6\n".encode("latin-1"), "not UTF-8"),
    "a ZIP archive": (b"PK\x03\x04" + bytes(100), "this is a ZIP archive; unpack it first, with: unzip"),
    "a broken gzip": (gzip.compress(b"the 1 2 3\n" * 9)[:-12], "Compressed file ended before the end-of-stream marker"),
    "a line without an end": (
        gzip.compress(b"the 1 2 3\n" + b"x" * (64 << 20)),
        "line 2 must have at most 1,048,576 bytes, got more",
    ),
    "a damaged gzip": (gzip.compress(b"the 1 2 3\n")[:10] + b"\xff" * 20, "decompressing data"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_with_a_file_is_told_in_one_line(tmp_path, words, case):
    """With the file, the line and what was given."""
    content, message = BAD[case]
    path = tmp_path / "v.txt"
    path.write_bytes(content)
    tracemalloc.start()
    with pytest.raises(ConfigError) as caught:
        start(path, words)
    used = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert used < 24 << 20
    text = str(caught.value)
    assert text.startswith(f"embedding_init {path}: ")
    assert message in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "none.txt", r"embedding_init .*/none\.txt: No such file or directory"),
        (lambda folder: folder, "embedding_init .*: Is a directory"),
        (lambda folder: write(folder / "vectors.tsv", ["1\t2\t3"]), r"/metadata\.tsv: No such file or directory"),
        (lambda folder: projector(folder, ["1\t2\t3"] * 3, ["the"] * 2), r"metadata\.tsv has only 2 tokens"),
        (lambda folder: projector(folder, ["1\t2\t3"] * 2, ["a\tb"] + ["the\t1"] * 3), r"vectors\.tsv has only 2 tok"),
    ],
    ids=["no file", "a folder", "no metadata", "fewer labels", "fewer vectors"],
)
def test_a_file_that_is_missing_or_too_short_is_named(tmp_path, words, make, message):
    """Of two files it is the one that is meant."""
    with pytest.raises(ConfigError, match=message):
        start(make(tmp_path), words)


def test_lines_that_are_not_wanted_are_not_kept(tmp_path, words, monkeypatch):
    """Gigabytes of vectors are read for a few megabytes of them."""
    kept = []
    read = embeddings.read_vectors
    monkeypatch.setattr(embeddings, "read_vectors", lambda *arguments: kept.append(read(*arguments)) or kept[0])
    start(write(tmp_path / "v.txt", [*LINES, *(f"x{i} 1 2 3" for i in range(100))]), words)
    assert set(kept[0]) == {b"the", b"cat", b"sat"}


def ids_of(tokenizer, text):
    return np.array(tokenizer.encode(text), np.int32)


def test_skip_gram_gives_vectors_of_one_deviation_to_what_occurs():
    """Rescaled to what suits a model; the rest starts as with a file."""
    tokenizer = WordTokenizer.train([TEXT, "one two three"])
    embedding, said = start("skip-gram", tokenizer, ids_of(tokenizer, TEXT * 20), width=16)
    has_text = [bool(tokenizer.decode([i])) for i in range(len(tokenizer.tokens))]
    occurs = [token in TEXT for token in tokenizer.tokens]
    assert embedding.dtype == np.float32
    assert embedding[occurs].std() == pytest.approx(embeddings.SKIP_GRAM_STD)
    assert np.abs(embedding[np.logical_not(has_text)]).max() <= 0.05
    assert len(said) == 4


def test_skip_gram_is_repeatable():
    """The same seed, the same bits."""
    tokenizer = WordTokenizer.train([TEXT])
    ids = ids_of(tokenizer, TEXT * 20)
    assert start("skip-gram", tokenizer, ids)[0].tobytes() == start("skip-gram", tokenizer, ids)[0].tobytes()


def test_documents_part_for_skip_gram(monkeypatch):
    """The tokenizer's end token is what windows end at; a start token is not."""
    ends = []
    monkeypatch.setattr(embeddings, "skip_gram", lambda *args: ends.append(args[2]) or skipgram.skip_gram(*args))
    for end_token in (True, False):
        tokenizer = CharacterTokenizer.train("ab", end_token=end_token)
        start("skip-gram", tokenizer, ids_of(tokenizer, "abba"))
    assert ends == [2, None]


def test_a_text_without_words_is_refused(words):
    """There is nothing that could be a neighbour."""
    with pytest.raises(CorpusError, match=r"^embedding_init skip-gram: none of the 3 tokens to train on has text$"):
        start("skip-gram", words, np.full(3, words.special.unknown, np.int32))


@pytest.mark.parametrize("source", ["skipgram", "skip_gram", "SkipGram"])
def test_skip_gram_written_in_another_way_is_told_how_it_is(words, source):
    """It is no file that is missing."""
    with pytest.raises(ConfigError, match="to learn vectors from the corpus it is skip-gram"):
        start(source, words)


def test_words_without_a_vector_do_not_begin_alike(tmp_path, words):
    """Not even where all that was found is one vector of equal values."""
    embedding, _ = start(write(tmp_path / "one.txt", ["the 1 1 1"]), words)
    cat, sat = rows(embedding, words, "cat", "sat")
    assert cat != sat
