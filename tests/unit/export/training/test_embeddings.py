"""Initial embeddings: vectors from a file, matched to tokens by their text."""

import gzip
import tracemalloc

import numpy as np
import pytest

from contract.tokenizers import CharacterTokenizer, ExactWordTokenizer, SubwordTokenizer, WordTokenizer
from export.errors import ConfigError
from export.training.embeddings import read_embedding, read_vectors

WIDTH = 3
TEXT = "the cat sat on the mat and the dog ran"
# Token → its values in a file. No value is 0, and no two are equal.
VECTORS = {"the": "1 2 3", "cat": "4 5 6", "sat": "-7e-1 8.5 +9", "zebra": "10 11 12", ",": "13 14 15"}
LINES = [f"{token} {values}" for token, values in VECTORS.items()]


@pytest.fixture
def words():
    return WordTokenizer.train([TEXT])


def start(path, tokenizer, width=WIDTH, seed=0):
    return read_embedding(path, tokenizer, width, seed)


def rows(embedding, tokenizer, *texts):
    return [embedding[tokenizer.tokens.index(text)].tolist() for text in texts]


def write(path, lines, end="\n"):
    path.write_bytes("".join(line + end for line in lines).encode())
    return path


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
def test_every_text_format_gives_the_same_vectors(tmp_path, words, form, end, compressed):
    path = write(tmp_path / "v.txt", FORMS[form], end)
    if compressed:
        path.write_bytes(gzip.compress(path.read_bytes()))
    embedding = start(path, words)
    assert (embedding.dtype, embedding.shape) == (np.float32, (len(words.tokens), WIDTH))
    expected = np.array([[1, 2, 3], [4, 5, 6], [-0.7, 8.5, 9]], np.float32).tolist()
    assert rows(embedding, words, "the", "cat", "sat") == expected


def test_a_token_with_a_leading_space_falls_back_to_the_bare_word(tmp_path):
    """Vectors trained elsewhere have no leading spaces; those of an exported exact-word vocabulary do, and win."""
    tokenizer = ExactWordTokenizer.train(["The cat\nThe cat. The cat. The cat"])
    path = write(tmp_path / "v.txt", ["The 1 2 3", " cat 4 5 6", "cat 7 8 9"])
    embedding = start(path, tokenizer)
    assert rows(embedding, tokenizer, "The", " The", " cat") == [[1, 2, 3], [1, 2, 3], [4, 5, 6]]


def test_characters_other_than_white_space_get_their_vectors(tmp_path, capsys):
    tokenizer = CharacterTokenizer.train("ab é\t\n")
    lines = ["a 1 2 3", "  7 7 7", "\t 7 7 7", "", " 7 7 7", "é 4 5 6"]
    embedding = start(write(tmp_path / "v.txt", lines), tokenizer)
    assert rows(embedding, tokenizer, "a", "é") == [[1, 2, 3], [4, 5, 6]]
    assert 7 not in embedding
    assert "2 of 6 tokens (33.3%)" in capsys.readouterr().out


def test_subwords_are_matched_by_their_decoded_text(tmp_path):
    """The vocabulary writes bytes in an alphabet of its own; a token of incomplete UTF-8 matches nothing."""
    tokenizer = SubwordTokenizer.train(["über über über"], vocab_size=268)
    lines = ["über 1 2 3", "b 4 5 6", "Ã 7 7 7", "\ufffd 7 7 7", "Ġ 7 7 7"]
    embedding = start(write(tmp_path / "v.txt", lines), tokenizer)
    assert rows(embedding, tokenizer, "Ġ" + "Ã¼ber", "b") == [[1, 2, 3], [4, 5, 6]]
    assert 7 not in embedding


def test_missing_vectors_have_the_mean_and_std_of_those_found(tmp_path):
    tokenizer = WordTokenizer.train([" ".join(f"w{i}" for i in range(2000))])
    rng = np.random.default_rng(0)
    table = rng.normal(2, 0.5, (1000, 8))
    lines = [f"w{i} " + " ".join(map(repr, map(float, row))) for i, row in enumerate(table)]
    embedding = start(write(tmp_path / "v.txt", ["<pad>" + " 9" * 8, *lines]), tokenizer, width=8)
    special = [i for i, token in enumerate(tokenizer.tokens) if not token.startswith("w")]
    missing = [i for i, token in enumerate(tokenizer.tokens) if token.startswith("w") and int(token[1:]) >= 1000]
    assert embedding[missing].mean() == pytest.approx(2, abs=0.03)
    assert embedding[missing].std() == pytest.approx(0.5, rel=0.03)
    assert 0 < np.abs(embedding[special]).max() <= 0.05


def test_the_share_of_tokens_found_is_echoed_with_some_missing_ones(tmp_path, words, capsys):
    """The most frequent missing tokens show why the share is low."""
    start(write(tmp_path / "v.txt", LINES), words)
    assert capsys.readouterr().out == (
        f"embedding from {tmp_path}/v.txt: vectors of 3 of 8 tokens (37.5%); it has no 'on', 'mat', 'and', 'dog', "
        "'ran'\n"
    )


@pytest.mark.parametrize("seed", [0, 1])
def test_missing_vectors_are_reproducible_by_seed(tmp_path, words, seed):
    path = write(tmp_path / "v.txt", LINES)
    embedding = start(path, words, seed=seed)
    again = start(path, words, seed=seed)
    other = start(path, words, seed=2)
    assert embedding.tobytes() == again.tobytes()
    assert (embedding == other).all(axis=1).sum() == 3


BAD = {
    "empty": (b"", "it has none of the 8 tokens of the vocabulary: 'the', 'cat'"),
    "other words": (b"x 1 2 3\ny 4 5 6\n", "it has none of the 8 tokens of the vocabulary: 'the', 'cat', "),
    "another width": (b"the 1 2\n", "its vectors have 2 values, but embedding is 3; give --embedding 2"),
    "another width in the title": (b"9 300\nthe 1 2 3\n", "have 300 values, but embedding is 3; give --embedding 300"),
    "a word alone": (b"the\ncat\n", "line 1: a token and its values are expected"),
    "too few": (b"the 1 2 3\ncat 1 2\n", "line 2: 3 values are expected, as in the lines before it, got 2"),
    "two spaces": (b"the 1 2 3\ncat 1  2\n", "line 2: 3 values are expected, as in the lines before it, got 2"),
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
def test_an_invalid_file_is_reported_in_one_line(tmp_path, words, case):
    """The message has the file and the reason; reading takes less than 24 MiB of memory, whatever the file has."""
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


@pytest.mark.parametrize(("name", "reason"), [("none.txt", "No such file or directory"), ("", "Is a directory")])
def test_a_missing_file_is_named(tmp_path, words, name, reason):
    with pytest.raises(ConfigError, match=f"embedding_init {tmp_path / name}: {reason}"):
        start(tmp_path / name, words)


def test_vectors_of_other_tokens_are_not_kept_in_memory(tmp_path):
    """A file may have gigabytes, of which a vocabulary needs a few megabytes."""
    path = write(tmp_path / "v.txt", [*LINES, *(f"x{i} 1 2 3" for i in range(100))])
    assert set(read_vectors(path, {b"the", b"cat", b"missing"}, WIDTH)) == {b"the", b"cat"}


def test_missing_vectors_differ_from_each_other(tmp_path, words):
    embedding = start(write(tmp_path / "one.txt", ["the 1 1 1"]), words)
    cat, sat = rows(embedding, words, "cat", "sat")
    assert cat != sat
