"""Labels of records follow their documents through the shuffle and the split, and precede them as tokens."""

import json

import numpy as np
import pytest

from contract.label_columns import LabelColumn, label_ids, label_tokens
from contract.tokenizers import CharacterTokenizer
from export.corpora import labels as module
from export.corpora.corpus import read_corpus
from export.corpora.encoder import encode_corpus
from export.corpora.labels import document_labels, learn_columns
from export.errors import CorpusError


@pytest.fixture
def read(tmp_path):
    """Read records, or the content of a CSV file."""

    def read(records, columns=("style",)):
        path = tmp_path / ("r.csv" if isinstance(records, str) else "r.jsonl")
        path.write_text(records if isinstance(records, str) else "\n".join(map(json.dumps, records)))
        return read_corpus(str(path), "records", label_columns=columns)

    return read


def records(count):
    return [{"text": f"t{i}", "style": f"s{i}"} for i in range(count)]


def test_labels_of_csv_and_json_lines_are_the_same(read):
    text = "text,style,size\nab, elvish ,1\n \t,orkish,2\ncd,,0.5\n"
    rows = [{"text": "ab", "style": " elvish ", "size": 1}, {"text": " "}, {"text": "cd", "style": None, "size": 0.5}]
    for given in (text, rows):
        corpus = read(given, ("style", "size"))
        assert corpus.documents == ("ab", "cd")
        labels = {name: values.tolist() for name, values in corpus.labels.items()}
        assert labels == {"style": ["elvish", ""], "size": ["1", "0.5"]}


@pytest.mark.parametrize("fraction", [0, 0.3])
def test_each_document_keeps_its_label_through_shuffle_and_split(read, fraction):
    splits = [part for part in read(records(40)).split(fraction, seed=1) if part]
    pairs = [pair for part in splits for pair in zip(part.documents, part.labels["style"], strict=True)]
    assert len(splits) == (1 if fraction == 0 else 2)
    assert [text for text, _ in pairs] != [f"t{i}" for i in range(40)]
    assert {text[1:] for text, _ in pairs} == {str(i) for i in range(40)}
    assert all(text[1:] == label[1:] for text, label in pairs)


def test_other_labels_are_another_corpus(read):
    first, same = (read(records(3)).sha256() for _ in range(2))
    changed = read([{**each, "style": "s0"} for each in records(3)]).sha256()
    assert first == same != changed
    assert read(records(3), ()).sha256() != first


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (["elvish"], r"line 1: the label style must be a string or a number, got \['elvish'\]"),
        ("x" * 101, "line 1: the label style must have at most 100 characters, got 101"),
        ("\ud800", "line 1: .* half of a surrogate pair"),
    ],
)
def test_a_label_that_is_none_is_refused(read, value, problem):
    with pytest.raises(CorpusError, match=problem):
        read([{"text": "ab", "style": value}])


def tokenizer_of(characters, columns):
    plain = CharacterTokenizer.train(characters, end_token=True)
    return plain.extended((), end_token=True, labels=label_tokens(columns))


def test_numbers_are_in_bins_of_equally_many_documents(read):
    (column,) = learn_columns(read([{"text": "t", "style": i} for i in range(80)]))
    assert column.bounds == (10, 20, 30, 40, 50, 60, 70)
    assert column.values == ("..10", "10..20", "20..30", "30..40", "40..50", "50..60", "60..70", "70..")


def test_a_missing_number_is_no_label_and_does_not_make_a_column_of_texts(read):
    """As in records of pandas, which `json.dump` writes."""
    corpus = read([{"text": "t", "style": value} for value in (1.0, float("nan"), 2.0)])
    assert corpus.labels["style"].tolist() == ["1.0", "", "2.0"]
    assert learn_columns(corpus)[0].bounds == (2.0,)


@pytest.mark.parametrize(("values", "bounds"), [([0, 1, 0, 1], (1,)), ([5, 5, 5], ()), ([*[1] * 8, 9], ())])
def test_equal_quantiles_are_one_bound(read, values, bounds):
    (column,) = learn_columns(read([{"text": "t", "style": value} for value in values]))
    assert column.bounds == bounds
    assert column.find(str(values[0])) is not None


def test_a_column_with_a_text_is_of_texts(read):
    (column,) = learn_columns(read([{"text": "t", "style": value} for value in ("b", 2, "a", None, True)]))
    assert column == LabelColumn(name="style", values=("2", "a", "b", "true"))


def test_a_column_without_labels_or_with_too_many_is_refused(read, monkeypatch):
    with pytest.raises(CorpusError, match="no record has the label column 'stile', only 'text', 'style'"):
        read(records(3), ("stile",))
    with pytest.raises(CorpusError, match="the label column style has no label in any record"):
        learn_columns(read([{"text": "t", "style": None}]))
    monkeypatch.setattr(module, "MAX_VALUES", 2)
    with pytest.raises(CorpusError, match="must have numbers, or at most 2 different labels; got 3: 's0', 's1', 's2'"):
        learn_columns(read(records(3)))


def test_the_columns_of_a_base_stay_and_get_new_labels(read):
    base = (LabelColumn(name="era", values=("old",)), LabelColumn(name="style", values=("z", "s1")))
    assert learn_columns(read(records(3)), base) == (base[0], LabelColumn(name="style", values=("z", "s1", "s0", "s2")))
    assert learn_columns(read(records(3), ()), base) == base


def test_the_bins_of_a_base_stay_and_take_no_texts(read):
    base = (LabelColumn.of_numbers("style", (7.0,)),)
    assert learn_columns(read([{"text": "t", "style": 99}]), base) == base
    with pytest.raises(CorpusError, match="must have numbers, as that of the base has bins of them; got 's0'"):
        learn_columns(read(records(1)), base)


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_labels_precede_their_document_in_both_directions(read, direction):
    corpus = read([{"text": "ab", "style": "x"}, {"text": "ba", "style": "y"}])
    columns = (LabelColumn(name="era", values=("old",)), LabelColumn(name="style", values=("x",)))
    tokenizer = tokenizer_of("ab", columns)
    ids = encode_corpus(corpus, tokenizer, direction, document_labels(corpus, columns, tokenizer))
    texts = ["ab", "ba"] if direction == "forward" else ["ba", "ab"]
    expected = ["<era=>", "<style=x>", *texts[0], "<end>", "<era=>", "<style=>", *texts[1], "<end>"]
    assert [tokenizer.tokens[i] for i in ids] == expected
    assert set(label_ids(tokenizer).values()) & set(ids.tolist())


def test_a_long_document_has_its_labels_once(read):
    columns = (LabelColumn(name="style", values=("x",)),)
    tokenizer = tokenizer_of("ab ", columns)
    corpus = read([{"text": "ab " * 50_000, "style": "x"}, {"text": "b", "style": "x"}])
    for direction in ("forward", "backward"):
        ids = encode_corpus(corpus, tokenizer, direction, document_labels(corpus, columns, tokenizer))
        assert np.flatnonzero(ids == tokenizer.tokens.index("<style=x>")).tolist() == [0, 150_002]
