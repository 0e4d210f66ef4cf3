"""Labels are tokens that no text is encoded as and that are never sampled; numbers are in bins."""

import pytest

from contract.errors import TokenizerError
from contract.label_columns import LabelColumn, label_ids, label_tokens, opening_ids
from contract.tokenizers import (
    CharacterTokenizer,
    ExactWordTokenizer,
    RegexTokenizer,
    SubwordTokenizer,
    WordRules,
    WordTokenizer,
    load_tokenizer,
)

TEXT = "the elves <style=elvish> sang; the elves <style=elvish> sang."
STYLES = LabelColumn(name="style", values=("dwarvish", "elvish"))
AGES = LabelColumn.of_numbers("age", (18.0, 65.5))
COLUMNS = (STYLES, AGES)
TOKENIZERS = {
    "character": CharacterTokenizer.train(TEXT, end_token=True),
    "word": WordTokenizer.train([TEXT], end_token=True),
    "exact_word": ExactWordTokenizer.train([TEXT], end_token=True),
    "subword": SubwordTokenizer.train([TEXT], end_token=True),
    "regex": RegexTokenizer.train([TEXT.replace("<style=elvish>", "")], regexes=["<[^>]*>"], end_token=True),
    # Filters nothing, so that a text may have the word <style=elvish>.
    "imported words": WordTokenizer(["<pad>", "<OOV>", "the", "elves", "<end>"], WordRules("", lower=False)),
}


def test_numbers_with_many_digits_have_different_labels():
    bounds = (2024000000000100.0, 2024000000000200.0, 2024000000000300.0)
    column = LabelColumn.of_numbers("order", bounds)
    first, second, third = (f"{bound:.0f}" for bound in bounds)
    assert column.values == (f"..{first}", f"{first}..{second}", f"{second}..{third}", f"{third}..")
    assert LabelColumn.of_numbers("share", (0.1 + 0.2, 0.7)).values == ("..0.3", "0.3..0.7", "0.7..")


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_labels_have_no_text_are_never_sampled_and_survive_the_file(kind, tmp_path):
    plain = TOKENIZERS[kind]
    tokenizer = plain.extended((), end_token=True, labels=label_tokens(COLUMNS))
    ids = label_ids(tokenizer)
    styles = ["<style=>", "<style=dwarvish>", "<style=elvish>"]
    assert list(ids) == [*styles, "<age=>", *(f"<age={value}>" for value in AGES.values)]
    assert set(ids.values()) == set(range(len(plain), len(tokenizer)))
    assert tokenizer.decode(ids.values()) == ""
    assert set(ids.values()) <= set(tokenizer.special.never_sampled) & tokenizer.textless_ids
    assert tokenizer.encode(TEXT) == plain.encode(TEXT)
    assert not set(tokenizer.encode(TEXT)) & set(ids.values())
    (tmp_path / "t.json").write_text(tokenizer.to_json())
    loaded = load_tokenizer(tmp_path / "t.json")
    assert (type(loaded), loaded.to_json()) == (type(tokenizer), tokenizer.to_json())
    assert loaded.special == tokenizer.special
    assert loaded.encode(TEXT) == plain.encode(TEXT)


def test_more_labels_keep_the_ids_of_the_first():
    """Those of a base, which is fine-tuned, are followed by new characters and new labels."""
    base = TOKENIZERS["character"].extended((), end_token=True, labels=label_tokens([STYLES]))
    more = LabelColumn(name="style", values=("dwarvish", "elvish", "human"))
    extended = base.extended(["é"], end_token=True, labels=label_tokens([more]))
    assert extended.tokens == (*base.tokens, "é", "<style=human>")
    assert extended.special.labels == (*base.special.labels, len(base) + 1)


def test_a_label_that_is_a_token_of_the_text_is_refused():
    tokenizer = RegexTokenizer.train([TEXT], regexes=["<[^>]*>"], end_token=True)
    with pytest.raises(TokenizerError, match="'<style=elvish>' occurs twice"):
        tokenizer.extended((), end_token=True, labels=label_tokens([STYLES]))


def test_a_text_opens_with_the_start_token_and_a_token_of_each_column():
    tokenizer = TOKENIZERS["character"].extended((), end_token=True, labels=label_tokens(COLUMNS))
    ids = opening_ids(tokenizer, COLUMNS, {"age": "65.5.."})
    assert [tokenizer.tokens[i] for i in ids] == ["<end>", "<style=>", "<age=65.5..>"]


def test_a_number_is_in_the_bin_that_includes_its_lower_bound():
    found = {"17.9": "..18", "18": "18..65.5", "65.4": "18..65.5", "1e9": "65.5..", "..18": "..18"}
    assert {given: AGES.find(given) for given in found} == found
    assert [AGES.find(given) for given in ("old", "nan", "", "1_2")] == [None] * 4


def test_a_text_is_a_label_or_none():
    assert [STYLES.find(given) for given in ("elvish", "Elvish", "", "3.0")] == ["elvish", None, None, None]
