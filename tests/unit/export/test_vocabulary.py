"""`sostenuto vocabulary` shows how a tokenizer unit encodes a corpus."""

import io
import re
import types
from pathlib import Path

import pytest

from contract.tokenizers import load_tokenizer
from export.config import load_config
from export.corpora.corpus import read_corpus
from export.corpora.labels import learn_columns
from export.vocabulary import train_tokenizer
from tests.commands import main

LINE = "the cat sat on the mat, and the dog ran.\n"
UNITS = ["character", "word", "exact_word", "subword"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A working directory with a corpus whose last line is the validation split."""
    monkeypatch.chdir(tmp_path)
    Path("book.txt").write_text(LINE * 9 + "the cat is über über!".ljust(len(LINE) - 1) + "\n")
    return tmp_path


def show(capsys, *options, corpus="book.txt"):
    assert main(["vocabulary", corpus, *options]) == 0
    return capsys.readouterr().out.splitlines()


def one_line(capsys, *options):
    """Run the command, which must fail, and return its one-line error."""
    assert main(["vocabulary", *options]) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    return err


def test_matches_of_regular_expressions_are_shown(capsys):
    Path("list.csv").write_text("New York,1\nNew York,22\nNew York,1\nRome,1\n")
    options = ["--documents", "none", "--validation", "0", "--show", "0"]
    lines = show(capsys, "--token-regex", "[A-Z][^,]+", "--token-regex", r"\d+", *options, corpus="list.csv")
    assert lines[0] == "regex: a vocabulary of 18 tokens from 41 of 41 characters of list.csv"
    rows = ["'1'", "'2' '2'", "'1'"]
    assert [line for line in lines if "New York" in line] == [f"  'New York' ',' {row} '\\n'" for row in rows]
    limited = show(capsys, "--token-regex", "fields", "--num-words", "4", *options, corpus="list.csv")
    message = "num_words = 4 keeps 3 of 4 different matches that occur at least 2 times; the others are spelled"
    assert message in limited


def test_the_validation_split_is_shown_as_ids_tokens_and_counts(capsys):
    assert show(capsys, "--token-unit", "word", "--show", "4") == [
        "word: a vocabulary of 11 tokens from 369 of 410 characters of book.txt",
        "the first 4: '<pad>' '<OOV>' 'the' 'cat'",
        "text: the validation split",
        "  2 3 1 1 1",
        "  'the' 'cat' '<OOV>' '<OOV>' '<OOV>'",
        "5 tokens: 5.0 per line, 8.20 characters per token",
        "unknown: 3 tokens, 60.00%",
        "  2 × 'über'",
        "  1 × 'is'",
    ]


@pytest.mark.parametrize(
    ("unit", "tokens", "unknown"),
    [
        (
            "character",
            "'t' 'h' 'e' ' ' 'c' 'a' 't' ' ' '<unk>' 's'",
            ["  2 × 'ü'", "  2 × 'b'", "  1 × 'i'", "  1 × '!'"],
        ),
        ("exact_word", "'the' ' cat' ' ' '<unk>' 's'", ["  2 × 'ü'", "  2 × 'b'", "  1 × 'i'", "  1 × '!'"]),
        ("subword", r"'the' ' cat' ' ' 'i' 's' ' ' bytes:\xc3 bytes:\xbc 'b'", []),
    ],
)
def test_every_unit_shows_its_tokens(capsys, unit, tokens, unknown):
    lines = show(capsys, "--token-unit", unit, "--show", "0")
    assert lines[3].startswith("  " + tokens)
    first = next(place for place, line in enumerate(lines) if line.startswith("unknown: "))
    assert lines[first + 1 :] == unknown


def test_three_nonblank_lines_of_thirty_tokens_are_shown(capsys):
    Path("text.txt").write_text("\n\nthe cat\n\n \nsat\n" + "on " * 40 + "\nmat\n")
    lines = show(capsys, "--token-unit", "word", "--show", "0", "--text", "text.txt")
    assert lines[1] == "text: text.txt"
    assert [lines[3], lines[5]] == ["  'the' 'cat'", "  'sat'"]
    assert lines[7] == "  " + " ".join(["'on'"] * 30) + " … and 10 more"
    assert lines[8].startswith("44 tokens: ")


def test_only_the_beginning_of_a_very_long_line_is_shown(capsys, monkeypatch):
    monkeypatch.setattr("export.vocabulary.SHOWN_CHARACTERS", 1000)
    Path("endless.txt").write_text("on " * 100_000)
    lines = show(capsys, "--token-unit", "word", "--show", "0", "--text", "endless.txt")
    assert re.fullmatch(r"  ('on' ){30}… and at least [\d,]+ more", lines[3].replace("… ", " … ").replace("  …", " …"))
    assert lines[4].startswith("100,000 tokens: 100000.0 per line")


def test_a_blank_validation_split_is_counted(capsys):
    Path("blank.txt").write_text(LINE + " \n" * 20)
    assert "4 tokens: " in show(capsys, "--validation", "0.04", corpus="blank.txt")[-2]


def test_the_text_may_come_from_standard_input(capsys, monkeypatch):
    """Corpus and text cannot both come from there."""
    pipe = types.SimpleNamespace(buffer=io.BytesIO(b"the dog\n"))
    monkeypatch.setattr("sys.stdin", pipe)
    assert "  'the' 'dog'" in show(capsys, "--token-unit", "word", "--text", "-")
    assert "corpus and text are both -" in one_line(capsys, "-", "--text", "-")


def test_without_a_validation_split_the_corpus_is_shown(capsys):
    lines = show(capsys, "--validation", "0")
    assert lines[0].endswith("from 410 of 410 characters of book.txt")
    assert "text: the corpus, as nothing is held out" in lines
    assert lines[-1] == "unknown: 0 tokens, 0.00%"


def test_with_a_validation_corpus_nothing_is_held_out(capsys):
    """The vocabulary is that of the whole corpus, as in a training run."""
    Path("held.txt").write_text("the dog\n")
    Path("r.toml").write_text('name = "m"\ncorpus = "book.txt"\nvalidation_corpus = "held.txt"\ntoken_unit = "word"\n')
    assert main(["vocabulary", "--config", "r.toml"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("from 410 of 410 characters of book.txt")
    assert "text: the validation corpus held.txt" in lines
    assert "  'the' 'dog'" in lines


def test_labels_of_a_file_of_settings_are_tokens():
    Path("list.csv").write_text("text,style\n" + "one,early\ntwo,late\n" * 10)
    Path("r.toml").write_text('name = "m"\ncorpus = "list.csv"\nlabel_column = ["style"]\ndocuments = "records"\n')
    assert main(["vocabulary", "--config", "r.toml", "--save", "t.json"]) == 0
    config = load_config(Path("r.toml"), {})
    head, _ = read_corpus("list.csv", "records", label_columns=["style"]).split(0.1, config.seed)
    assert load_tokenizer(Path("t.json")).to_json() == train_tokenizer(config, head, learn_columns(head)).to_json()
    assert "<style=early>" in load_tokenizer(Path("t.json")).tokens


def test_a_base_has_the_vocabulary(capsys):
    Path("r.toml").write_text('name = "m"\nfrom = "book"\n')
    assert "a fine-tuned model has the vocabulary of its base" in one_line(capsys, "book.txt", "--config", "r.toml")


@pytest.mark.parametrize("documents", ["none", "lines"])
@pytest.mark.parametrize("unit", UNITS)
def test_the_saved_tokenizer_is_the_one_that_training_builds(capsys, unit, documents):
    options = {"token_unit": unit, "documents": documents}
    show(capsys, "--token-unit", unit, "--documents", documents, "--save", "t.json")
    config = load_config(None, {"name": "m", "corpus": "book.txt", **options})
    head, _ = read_corpus("book.txt", documents).split(0.1, config.seed)
    saved = load_tokenizer(Path("t.json"))
    assert saved.to_json() == train_tokenizer(config, head).to_json()
    assert (saved.unit, saved.special.end is not None) == (unit, documents == "lines")


def test_settings_come_from_a_recipe(capsys):
    Path("r.toml").write_text('name = "m"\ncorpus = "none.txt"\ntoken_unit = "subword"\nvocab_size = 270\nunits = 6\n')
    assert main(["vocabulary", "--config", "r.toml", "book.txt"]) == 0
    assert capsys.readouterr().out.startswith("subword: a vocabulary of 270 tokens ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "error: corpus is required (CORPUS)"),
        (["no.txt"], "corpus no.txt: No such file"),
        (["book.txt", "--text", "no.txt"], "text no.txt: No such file"),
        (["one.txt", "--token-unit", "exact_word"], "at least 2 different words are needed, got 1"),
        (["one.txt"], "at least 2 different characters are needed, got 1"),
        (["book.txt", "--token-unit", "subword", "--vocab-size", "100"], "vocab_size must be at least 259 "),
        (["book.txt", "--token-unit", "exact_word", "--vocab-size", "10"], "vocab_size must be at least 19 "),
    ],
)
def test_errors_are_one_line(capsys, options, message):
    Path("one.txt").write_text("a" * 99)
    assert message in one_line(capsys, *options)


def test_an_unwritable_output_file_is_an_error_after_the_counts(capsys):
    assert main(["vocabulary", "book.txt", "--save", "no/t.json"]) == 1
    out, err = capsys.readouterr()
    assert out
    assert "No such file or directory: 'no/t.json'" in err


CUTS = {
    "words": (["word", "--num-words", "6"], "num_words = 6 keeps 4 of 8 different words; the others are unknown"),
    "all words": (["word", "--num-words", "10"], None),
    "exact words": (
        ["exact_word", "--num-words", "6"],
        "num_words = 6 keeps 6 of 12 different words that occur at least 2 times; the others are spelled",
    ),
    "exact words in all": (
        ["exact_word", "--vocab-size", "22"],
        "vocab_size = 22 keeps 6 of 12 different words that occur at least 2 times; the others are spelled",
    ),
    "every exact word": (["exact_word"], None),
    "subwords": (["subword", "--vocab-size", "270"], None),
    "characters": (["character"], None),
}


@pytest.mark.parametrize("cut", CUTS)
def test_words_dropped_by_a_limit_are_counted(capsys, cut):
    options, line = CUTS[cut]
    lines = show(capsys, "--token-unit", *options)
    assert [each for each in lines if " keeps " in each] == ([line] if line else [])
    if line:
        assert lines[1] == line


NEEDED = {"name": "m", "corpus": "c"}


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({"token_unit": "exact_word", "num_words": 6}, 6),
        ({"token_unit": "exact_word", "vocab_size": 24}, 24),
        ({"token_unit": "subword", "vocab_size": 270}, 270),
    ],
)
def test_the_limit_bounds_the_vocabulary(settings, count):
    tokenizer = train_tokenizer(load_config(None, {**NEEDED, **settings}), read_corpus("book.txt"))
    if "vocab_size" in settings:
        assert len(tokenizer.tokens) == count
    else:
        unlimited = train_tokenizer(load_config(None, {**NEEDED, "token_unit": "exact_word"}), read_corpus("book.txt"))
        assert tokenizer.tokens[:count] == unlimited.tokens[:count]
        assert all(len(token) == 1 for token in tokenizer.tokens[count:-1])
        assert tokenizer.tokens[2] == " the"
