"""Word rules: how text is split into words, their offsets, and the rules in the file format."""

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from keras.src.legacy.preprocessing.text import text_to_word_sequence

from contract.tokenizers.rules import KERAS_RULES, WordRules
from tests.unit.contract.scripts import texts

odd = st.text(alphabet="aAbBiİσς. -|,!\\]^[\t\n\0é<>\u0307", max_size=40)
any_text = st.one_of(texts, odd)
any_rules = st.builds(
    WordRules,
    filters=st.one_of(st.just(KERAS_RULES.filters), st.text("aAiİ\u0307ς.-|!\\]^[&\t\n\0 é", max_size=6)),
    lower=st.booleans(),
    split=st.one_of(st.just(" "), st.text(" -|a.\n\u0307", min_size=1, max_size=3)),
)


@settings(max_examples=200)
@given(rules=any_rules, text=any_text)
def test_words_equal_those_of_keras(rules, text):
    options = {"filters": rules.filters, "lower": rules.lower, "split": rules.split}
    assert rules.words(text) == text_to_word_sequence(text, **options)


@settings(max_examples=200)
@given(rules=any_rules, text=any_text)
def test_the_text_from_a_words_offset_has_that_word_and_all_later_ones(rules, text):
    # In place of `:` after an a, `aa` is found one character earlier, and its own last letter becomes a word.
    assume(not any(rules.split[:size] == rules.split[-size:] for size in range(1, len(rules.split))))
    # Its lower case depends on the characters before it.
    text = text.replace("Σ", "S")
    words, places = rules.words(text), rules.offsets(text)
    assert len(places) == len(words)
    for number, place in enumerate(places):
        assert rules.words(text[place:]) == words[number:]
        if rules.split not in rules.filters and not rules.lower:
            assert text[place] == words[number][0]


@pytest.mark.parametrize(
    ("rules", "text", "places"),
    [
        (KERAS_RULES, "İ a, İİ b", [0, 2, 5, 8]),
        (WordRules(split="--", filters="."), "a.b--c", [0, 2, 5]),
        (WordRules(split="--", filters=".", lower=False), "İ.İ--.c", [0, 2, 6]),
        (WordRules(filters="i"), "İx", [0]),
    ],
)
def test_offsets_are_those_of_the_original_text(rules, text, places):
    assert rules.offsets(text) == places


@settings(max_examples=200)
@given(rules=any_rules)
def test_rules_are_read_from_the_file_format_unchanged(rules):
    assert WordRules.read(rules.normalizer, rules.pre_tokenizer) == rules


@pytest.mark.parametrize(
    ("normalizer", "pre_tokenizer"),
    [
        (None, KERAS_RULES.pre_tokenizer),
        (KERAS_RULES.normalizer, None),
        ({"type": "NFC"}, KERAS_RULES.pre_tokenizer),
        (KERAS_RULES.normalizer, {"type": "Whitespace"}),
        (KERAS_RULES.normalizer, {**KERAS_RULES.pre_tokenizer, "behavior": "Isolated"}),
        (KERAS_RULES.normalizer, {**KERAS_RULES.pre_tokenizer, "pattern": {"String": ""}}),
        ({**KERAS_RULES.normalizer, "normalizers": [{"type": "NFC"}]}, KERAS_RULES.pre_tokenizer),
    ],
)
def test_other_normalizers_and_pre_tokenizers_are_not_read_as_word_rules(normalizer, pre_tokenizer):
    """The file would otherwise be split differently than it says."""
    assert WordRules.read(normalizer, pre_tokenizer) is None
