"""The most probable next words, against the enumeration of every word on a fake model."""

import math
import re

import pytest

from contract.tokenizers import CharacterTokenizer, SubwordTokenizer, WordTokenizer
from service.api.requests import NextRequest
from service.context import RequestContext
from service.errors import InvalidRequest
from service.generation import next_words, search
from service.generation.next_words import BEFORE, WITHIN, word_table
from service.memory import MemoryBudget, MemoryLease
from tests.fakes import END, VOCABULARY, fake_distribution, fake_step, states_after
from tests.unit.service.engines import LABELED, Models, parsed

# Few letters and many separators: words end soon.
_KNOWN = "ab' .,;:!?-+*/()[]\n\tàβ漢0_–“”€"
_OTHERS = map(chr, range(0x2190, 0x2190 + VOCABULARY - 3 - len(_KNOWN)))
TEXT = CharacterTokenizer.train(_KNOWN + "".join(_OTHERS), end_token=True)


@pytest.fixture
def service(monkeypatch, start_service):
    monkeypatch.setattr(Models, "__init__", lambda self: setattr(self, "models", {"text": TEXT, "labeled": LABELED}))
    return start_service(prefix_cache_bytes=2**20)


def start(service, prompt="a b ", **fields):
    body = parsed(NextRequest, **{"model": "text", "prompt": prompt, **fields})
    return service.engine.start_next(body, RequestContext())


def words(service, prompt="a b ", **fields):
    processor = start(service, prompt, **fields)
    return [(each["word"], each["text"], each["logprob"]) for each in processor.words()]


def is_word(character):
    return bool(re.match(r"\w", character))


def every_word(prompt, least):
    """Return the texts to append for words, with their log probabilities, most probable first.

    Visits every prefix whose log probability is at least `least`, and so each word of which that is true.
    """
    ids, found = TEXT.encode(prompt), {}

    def visit(text, token_id, state, logprob):
        state = fake_step(token_id, state)
        row, ending = fake_distribution(state), 0.0
        has_word = any(map(is_word, text))
        is_within = has_word or (not text and bool(re.search(r"\w[\w']*\Z", prompt)))
        for next_id in range(VOCABULARY):
            character = "" if next_id == END else TEXT.tokens[next_id]
            if next_id in TEXT.special.never_sampled:
                continue
            goes_on = next_id != END and (is_word(character) or (is_within and character == "'"))
            if has_word and not goes_on:
                ending += math.exp(row[next_id])
            elif next_id != END and logprob + float(row[next_id]) >= least:
                visit(text + character, next_id, state, logprob + float(row[next_id]))
        if has_word:
            found[text] = logprob + math.log(ending)

    visit("", ids[-1], states_after(ids[:-1])[-1], 0.0)
    return sorted(found.items(), key=lambda item: -item[1])


@pytest.mark.parametrize("prompt", ["a b ", "ab", "b'", "a.", "a '", "'"])
def test_words_are_the_most_probable_ones_of_all(service, prompt):
    found = words(service, prompt, n=10)
    expected = every_word(prompt, -7)[:10]
    assert expected[-1][1] > -7
    assert [text for _, text, _ in found] == [text for text, _ in expected]
    assert [logprob for *_, logprob in found] == pytest.approx([logprob for _, logprob in expected], abs=1e-6)
    for word, text, _ in found:
        assert (prompt + text).endswith(word)
        assert re.fullmatch(r"\w[\w']*", word)


def test_what_is_not_explored_is_the_rest_of_the_probability(service):
    processor = start(service, n=5)
    found = processor.words()
    assert sum(each["probability"] for each in found) + processor.unexplored <= 1 + 1e-6
    assert 0 < processor.unexplored < 1
    more = start(service, n=100)
    more.words()
    assert more.unexplored < processor.unexplored


def test_a_search_that_reaches_its_limit_says_so(service):
    processor = start(service, n=100, max_tokens=20)
    assert len(processor.words()) < 100
    assert processor.limit_reached
    assert processor.request.num_completion_tokens <= 20


def test_a_prompt_that_was_read_before_is_not_read_again(service):
    words(service, "a b" * 20)
    for prompt in ("a b" * 20, "a b" * 20 + " "):
        processor = start(service, prompt)
        processor.words()
        assert processor.request.num_cached_tokens == len(TEXT.encode(prompt)) - 1
    assert "prefill" not in service.calls()[-3:]


@pytest.mark.parametrize(("name", "value"), [("NUM_AHEAD", 0), ("_MAX_KEPT_AHEAD", 9), ("_MAX_VOCABULARY", 9)])
def test_what_is_computed_ahead_saves_calls_and_changes_nothing(service, monkeypatch, name, value):
    found = words(service)
    num_calls = service.calls().count("next_logprobs")
    monkeypatch.setattr(search, name, value)
    assert words(service) == found
    assert service.calls().count("next_logprobs") > 2 * num_calls


def test_an_empty_prompt_starts_a_text(service):
    assert len(words(service, "", n=3)) == 3


def test_a_long_last_word_counts_as_memory_of_each_result(service):
    body = parsed(NextRequest, model="text", prompt="a" * 1000, n=100)
    with pytest.raises(InvalidRequest, match="the request and its response must need at most"):
        service.engine.start_next(body, RequestContext(memory=MemoryLease(MemoryBudget(2**19))))


@pytest.mark.parametrize(
    ("begun", "text", "word"), [("don", "'t", "don't"), ("a", " b", "b"), ("", "'b", "b"), ("a", "", "a")]
)
def test_a_word_continues_that_of_the_prompt(begun, text, word):
    assert next_words.last_word(text, begun) == word


def test_labels_are_read_before_the_prompt(service):
    ids = [END, *map(LABELED.tokens.index, ("<style=late>", "<age=>")), *LABELED.encode("ab")]
    found = words(service, "ab", model="labeled", labels={"style": "late"})
    assert found == words(service, ids, model="labeled") != words(service, "ab", model="labeled")
    with pytest.raises(InvalidRequest, match="labels must be absent: version 1 of model 'text' was trained without"):
        start(service, labels={"style": "late"})


def test_a_backward_model_has_no_next_word(service):
    with pytest.raises(InvalidRequest, match="model must be a forward model, got 'text backward'"):
        start(service, "a", model="text backward")


def kinds(tokenizer, *tokens):
    table = word_table(tokenizer, len(tokenizer.tokens))
    return [table.automaton.table[BEFORE:, tokenizer.tokens.index(token)].tolist() for token in tokens]


def test_words_of_a_word_model_are_tokens():
    """Each begins with its separator: it ends the word before it, and begins one after a prompt that ends in a word."""
    tokenizer = WordTokenizer.train(["the cat sat"])
    assert kinds(tokenizer, "cat") == [[WITHIN, next_words._ENDS, WITHIN]]


def test_tokens_of_several_characters_end_words_inside():
    tokenizer = SubwordTokenizer.train(["king. king. king, " * 50], vocab_size=300)
    assert kinds(tokenizer, "k", "Ġ", ".") == [[WITHIN] * 3, *[[BEFORE, next_words._ENDS, BEFORE]] * 2]
    assert next_words._classify("ng, the", is_within=True) == (next_words._ENDS, 5)
    assert next_words._classify(" o'er. ", is_within=False) == (next_words._ENDS, 2)
    assert next_words._classify(" 'tis", is_within=False) == (WITHIN, 0)


def test_an_incomplete_character_after_a_word_counts_as_one():
    """Its first two bytes are shown as one character. A byte-level tokenizer that splits no words has such tokens."""
    token = b"ng \xe2\x80"
    assert len(token.decode(errors="replace")) == 4
    assert next_words._classify(token.decode(errors="surrogateescape"), is_within=True) == (next_words._ENDS, 2)
