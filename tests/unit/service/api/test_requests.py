"""A request body is validated once; an error names the field, its limit and its value."""

import json

import pytest

from service.api.body import parse
from service.api.requests import (
    CompletionRequest,
    DetokenizeRequest,
    EmbeddingsRequest,
    InspectRequest,
    NextRequest,
    TokenizeRequest,
)
from service.api.training import FineTuningRequest, ModelChange
from service.errors import InvalidRequest
from service.scheduling.sampling_inputs import SamplingParams
from service.settings import Settings

LIMITS = {"max_tokens": 1000, "max_request_tokens": 20_000, "max_prompts": 10, "max_timeout_s": 60.0}
SETTINGS = Settings(max_running=100, max_queued=100, **LIMITS)
PENALTIES = ("presence_penalty", "frequency_penalty", "repetition_penalty")


def parsed(**fields):
    return parse(CompletionRequest, json.dumps({"model": "m", **fields}).encode(), SETTINGS)


def embed(**fields):
    return parse(EmbeddingsRequest, json.dumps({"model": "m", "input": "x", **fields}).encode(), SETTINGS)


def test_defaults_are_openais():
    request = parsed()
    assert (request.prompts, request.max_tokens, request.n, request.best_of) == (("",), 16, 1, 1)
    assert (request.stream, request.echo, request.logprobs, request.timeout_s) == (False, False, None, 60.0)
    assert request.sampling == SamplingParams(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0)
    assert not request.sampling.adjusts
    assert request.stop == []
    assert 0 <= request.seed < 2**53
    assert request.seed != parsed().seed


def test_a_resumed_request_has_no_seed_unless_it_sets_one():
    """The checkpoint of a resume token has the seed of its completion."""
    request = parsed(state="ost1.x", return_state=True)
    assert (request.state, request.return_state, request.seed) == ("ost1.x", True, None)
    assert parsed(state="ost1.x", seed=4).seed == 4
    assert (parsed().state, parsed().return_state) == (None, False)


def test_every_field_is_parsed():
    others = {"seed": -3, "stop": ["a", "b"], "n": 2, "best_of": 3, "logprobs": 4, "echo": True, "timeout_s": 1.5}
    sampling = {"temperature": 0, "top_k": 7, "top_p": 0.5, "min_p": 0.1, "min_tokens": 3}
    sampling |= {"presence_penalty": -1.5, "frequency_penalty": 2, "repetition_penalty": 1.25}
    request = parsed(prompt="x", max_tokens=5, logit_bias={"7": -100, "9": 0, "11": 2.5}, **others, **sampling)
    assert request.sampling == SamplingParams(**sampling, bias=((7, -100.0), (9, 0.0), (11, 2.5)))
    assert {name: getattr(request, name) for name in others} == others


@pytest.mark.parametrize(
    ("value", "texts"),
    [("a", ("a",)), ("", ("",)), (["a", ""], ("a", "")), ([1, 2], ([1, 2],)), ([[1], [2, 3], []], ([1], [2, 3], []))],
    ids=str,
)
def test_a_prompt_or_suffix_has_four_forms(value, texts):
    assert (parsed(prompt=value).prompts, parsed(prompt=None).prompts) == (texts, ("",))
    assert (parsed(suffix=value).suffixes, parsed(suffix=value).prompts) == (texts, ("",))


def test_stream_options_prepend_is_false_by_default():
    """A client sets it if it can prepend the chunks that a backward model streams."""
    requests = [parsed(stream=True, stream_options={"prepend": value}) for value in (True, False, None)]
    assert [request.stream_options.prepend for request in (*requests, parsed(stream=True))] == [True, *[False] * 3]


def test_ignore_eos_sets_min_tokens_to_max_tokens():
    assert parsed(ignore_eos=True, max_tokens=50, min_tokens=2).sampling.min_tokens == 50


def test_embeddings_parse_their_fields_and_defaults():
    fields = {"pooling": "last", "encoding_format": "base64", "dimensions": 8}
    for request, *wanted in ((embed(), "mean", "float", None), (embed(**fields), *fields.values())):
        assert [request.pooling, request.encoding_format, request.dimensions] == wanted
    assert (embed().prompts, embed(input=[[1, 2]]).prompts) == (("x",), ([1, 2],))


@pytest.mark.parametrize(
    "field",
    [
        *("prompt", "max_tokens", "temperature", "top_p", "top_k", "min_p", "stop", "n", "best_of", "stream", "echo"),
        *("stream_options", "suffix", "user", "logprobs", "logit_bias", *PENALTIES, "ignore_eos", "min_tokens"),
        *("add_special_tokens", "timeout_s"),
    ],
)
def test_null_means_absent(field):
    """OpenAI's clients send null for a field that is not set."""
    given, absent = parsed(seed=1, **{field: None}), parsed(seed=1)
    assert given == absent


@pytest.mark.parametrize(("value", "expected"), [("a", ["a"]), (["a"], ["a"]), ([], []), ("", [])])
def test_stop_is_a_string_or_a_list(value, expected):
    assert parsed(stop=value).stop == expected


@pytest.mark.parametrize("value", [0, -1])
def test_top_k_of_0_or_minus_1_means_all_tokens(value):
    assert parsed(top_k=value).sampling.top_k == 0


def test_an_integer_may_be_written_as_a_float():
    names = ("n", "best_of", "max_tokens", "min_tokens", "min_length", "top_k", "logprobs", "seed")
    request = parsed(**dict.fromkeys(names, 3.0), prompt=[1.0, 2], stream=True, stream_options={"state_interval": 2.0})
    assert all(type(getattr(request, name)) is int for name in names)
    assert (request.n, request.seed, request.prompts) == (3, 3, ([1, 2],))
    assert parsed(prompt=[[1.0], [2]], seed=261141037812.0).seed == 261141037812
    assert parse(DetokenizeRequest, b'{"tokens": [4.0]}', SETTINGS).tokens == [4]
    inspect = parse(InspectRequest, b'{"input": [4.0], "layers": [1.0], "max_units": 2.0, "logprobs": 1.0}', SETTINGS)
    assert (inspect.prompts, inspect.layers, inspect.max_units, inspect.logprobs) == (([4],), [1], 2, 1)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("max_tokens", -1, "max_tokens must be greater than or equal to 0, got -1"),
        ("max_tokens", 1001, "max_tokens must be at most 1000, got 1001"),
        ("max_tokens", 10**30, "max_tokens must be at most 1000, got 1000000"),
        ("max_tokens", 2.5, "max_tokens must .*integer.*, got 2.5"),
        ("max_tokens", "5", "max_tokens must .*integer, got '5'"),
        ("max_tokens", True, "max_tokens must .*integer, got True"),
        ("temperature", -0.1, "temperature must be greater than or equal to 0, got -0.1"),
        ("temperature", 2.1, "temperature must be less than or equal to 2, got 2.1"),
        ("top_p", 1.5, "top_p must be less than or equal to 1, got 1.5"),
        ("min_p", -1, "min_p must be greater than or equal to 0, got -1"),
        ("top_k", -2, "top_k must be greater than or equal to -1, got -2"),
        ("top_k", 2**31, "top_k must be less than or equal to 2147483647"),
        ("seed", 2**63, "seed must be less than 9223372036854775808"),
        ("n", 0, "n must be greater than or equal to 1, got 0"),
        ("n", 10_001, "n must be less than or equal to 10000, got 10001"),
        ("prompt", 5, "prompt must be a string, a list of strings, a list of token ids or a list of such lists, got 5"),
        ("prompt", [], r"prompt must have at least 1 item, got \[\]"),
        ("prompt", ["a", 1], r"prompt\[1\] must be a valid string, got 1"),
        ("prompt", [1, "a"], r"prompt\[1\] must be a valid integer, got 'a'"),
        ("prompt", [1, True], r"prompt\[1\] must be a valid integer, got True"),
        ("prompt", [1.5], r"prompt\[0\] must .*integer.*, got 1.5"),
        ("prompt", [-1], r"prompt\[0\] must be greater than or equal to 0, got -1"),
        ("prompt", [2**31], r"prompt\[0\] must be less than or equal to 2147483647"),
        ("prompt", [10**4000], r"prompt\[0\] must be .* 2147483647, got a number of more than 60 digits"),
        ("prompt", [[1], [2, None]], r"prompt\[1\]\[1\] must be a valid integer, got None"),
        ("prompt", [[1], "a"], r"prompt\[1\] must be a valid array, got 'a'"),
        ("prompt", ["a"] * 11, "prompt must have at most 10 items, got 11"),
        ("best_of", 0, "best_of must be greater than or equal to 1, got 0"),
        ("best_of", 10_001, "best_of must be less than or equal to 10000, got 10001"),
        ("logprobs", 51, "logprobs must be less than or equal to 50, got 51"),
        ("top_texts", 1001, "top_texts must be less than or equal to 1000, got 1001"),
        ("logprobs", -1, "logprobs must be greater than or equal to 0, got -1"),
        ("echo", "yes", "echo must .*boolean, got 'yes'"),
        ("presence_penalty", 2.1, "presence_penalty must be less than or equal to 2, got 2.1"),
        ("frequency_penalty", -2.1, "frequency_penalty must be greater than or equal to -2, got -2.1"),
        ("repetition_penalty", 0, r"repetition_penalty must be greater than or equal to 0\.01, got 0"),
        ("repetition_penalty", 101, "repetition_penalty must be less than or equal to 100, got 101"),
        ("logit_bias", {"1": 101}, "logit_bias.1 must be less than or equal to 100, got 101"),
        ("logit_bias", {"1": "x"}, "logit_bias.1 must be a valid number, got 'x'"),
        ("logit_bias", {"x": 1}, "logit_bias must have token ids as names, got 'x'"),
        ("logit_bias", {"-1": 1}, "logit_bias must have token ids as names, got '-1'"),
        ("logit_bias", {"1": 1, "01": 1}, "logit_bias must name a token id once, got 1 twice"),
        ("logit_bias", {str(i): 1 for i in range(1025)}, "logit_bias must have at most 1024 items"),
        ("logit_bias", [1], r"logit_bias must .*object.*, got \[1\]"),
        ("min_tokens", -1, "min_tokens must be greater than or equal to 0, got -1"),
        ("min_tokens", 17, "min_tokens must be at most max_tokens, 16, got 17"),
        ("suffix", 1, "suffix must be a string, a list of strings, a list of token ids or a list of such lists, got 1"),
        ("suffix", ["a"] * 11, "suffix must have at most 10 items, got 11"),
        ("timeout_s", 0, "timeout_s must be greater than 0, got 0"),
        ("timeout_s", 61, "timeout_s must be at most 60, got 61"),
        ("stream_options", {"include_usage": True}, "stream_options must be absent without stream"),
        ("stream_options", {"state_interval": 0}, "stream_options.state_interval must be greater.* 1, got 0"),
        ("stream_options", {"prepend": 1}, "stream_options.prepend must .*boolean, got 1"),
        ("stream_options", 5, "stream_options must .*object.*, got 5"),
        ("stop", [""], r"stop\[0\] must have at least 1 character, got ''"),
        ("response_format", {"type": "json_schema", "json_schema": {}}, "^response_format.json_schema.schema is requ"),
        ("response_format", {"type": "json_schema"}, "response_format.json_schema must be given with type json_schema"),
        ("stop", ["a", 5], r"stop\[1\] must .*string, got 5"),
        ("stop", ["x"] * 17, "stop must have at most 16 items"),
        ("stop", 5, "stop must be a valid array, got 5"),
        ("model", 5, "model must .*string, got 5"),
        ("labels", ["late"], "labels must be an object"),
        ("labels", {"style": ["late"]}, r"labels.style must be a valid string, got \['late'\]"),
        ("state", "x" * (2**21 + 1), "state must have at most 2097152 characters, got 'xxx"),
        ("guided_json", 5, "guided_json must be an object, got 5"),
        ("guided_json", {"maximum": 10**20}, "guided_json cannot be written as JSON: Integer exceeds 64-bit range"),
        ("guided_json", '{"const": 1e400}', "guided_json must be a JSON Schema, as an object .*: number is infinity"),
        ("guided_json", "[" * 300 + "]" * 300, "guided_json cannot be written as JSON: Recursion limit reached"),
        ("guided_json", {"title": "x" * 50_000}, r"guided_json must have at most 50000 characters, got 500\d\d"),
    ],
)
def test_an_invalid_field_is_named_with_its_limit_and_value(field, value, message):
    with pytest.raises(InvalidRequest, match=message) as caught:
        parsed(**{field: value})
    assert caught.value.param == field


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"n": 3, "best_of": 2}, "best_of", "best_of must be at least n, got best_of 2 and n 3"),
        ({"best_of": 2, "stream": True}, "best_of", "best_of must be n with stream.* got best_of 2 and n 1"),
        ({"n": 30, "max_tokens": 1000}, "max_tokens", "at most 20000, got 1 × 30 × 1000 = 30000"),
        ({"prompt": ["a"] * 5, "best_of": 5, "max_tokens": 1000}, "max_tokens", "got 5 × 5 × 1000 = 25000"),
        ({"prompt": ["a"] * 3, "n": 4000, "max_tokens": 0}, "n", r"prompts × n .* must be at most 10000, got 3 × 4000"),
        ({"suffix": ["a"] * 3, "n": 4000, "max_tokens": 0}, "n", r"suffixes × n .* at most 10000, got 3 × 4000"),
        ({"prompt": ["a"] * 10, "top_texts": 1000}, "max_tokens", "prompts × top_texts × max_tokens must be"),
        ({"best_of": 129, "max_tokens": 1}, "best_of", "best_of must be at most n, or 128, got 129"),
        ({"best_of": 3, "unique": True}, "best_of", "best_of must be n with unique, which .* best_of 3 and n 1"),
        ({"best_of": 3, "not_in_training": True}, "best_of", "best_of must be n with not_in_training"),
        ({"suffix": ["a"] * 5, "n": 5, "max_tokens": 1000}, "max_tokens", "suffixes × n .* got 5 × 5 × 1000 = 25000"),
        ({"labels": {"style": "late"}, "state": "ost1"}, "labels", "labels must be absent with state"),
        ({"top_texts": 2, "stream": True}, "stream", "stream must be absent with top_texts"),
        ({"top_texts": 2, "n": 2}, "n", "n must be absent with top_texts, got 2"),
        ({"top_texts": 2, "best_of": 2, "n": 2}, "n", "n must be absent with top_texts, got 2"),
        ({"top_texts": 2, "temperature": 0.5}, "temperature", "be 0, 1 or absent with top_texts, got 0.5"),
        ({"top_texts": 2, "max_tokens": 0}, "max_tokens", "max_tokens must be at least 1 in a search, got 0"),
        (
            {"top_texts": 2, "use_beam_search": True},
            "top_texts",
            "top_texts must be absent with use_beam_search, got 2",
        ),
        ({"use_beam_search": True, "logprobs": 1}, "logprobs", "logprobs must be absent with use_beam_search, got 1"),
        ({"use_beam_search": True, "stop": ["a"]}, "stop", r"stop must be absent with use_beam_search, got \['a'\]"),
        ({"length_penalty": 2.0}, "length_penalty", "length_penalty must be absent without use_beam_search, got 2.0"),
        ({"use_beam_search": True, "n": 1000, "max_tokens": 21}, "max_tokens", "be at most 20000 .* = 21000"),
    ],
)
def test_contradicting_fields_are_named_together(fields, param, message):
    with pytest.raises(InvalidRequest, match=message) as caught:
        parsed(**fields)
    assert caught.value.param == param


@pytest.mark.parametrize("fields", [{"echo": True, "stream": True}, {"n": 2, "best_of": 2, "stream": True}], ids=str)
def test_echo_and_best_of_equal_to_n_can_be_streamed(fields):
    assert parsed(**fields).stream


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (EmbeddingsRequest, {"input": None}, "input must be a string"),
        (EmbeddingsRequest, {"input": []}, "input must have at least 1 item"),
        (EmbeddingsRequest, {"input": ["a"] * 11}, "input must have at most 10 items, got 11"),
        (EmbeddingsRequest, {"input": "a", "pooling": "max"}, "pooling must be 'mean' or 'last', got 'max'"),
        (EmbeddingsRequest, {"input": "a", "dimensions": 0}, "dimensions must be greater than or equal to 1, got 0"),
        (EmbeddingsRequest, {"input": "a", "timeout_s": 61}, "timeout_s must be at most 60, got 61"),
        (InspectRequest, {"input": "a", "state": "ost1", "labels": {"a": "b"}}, "labels must be absent with state"),
        (NextRequest, {"prompt": "a", "n": 0}, "n must be greater than or equal to 1, got 0"),
        (NextRequest, {"prompt": "a", "n": 101}, "n must be less than or equal to 100, got 101"),
        (NextRequest, {"prompt": "a", "max_tokens": 20_001}, "max_tokens must be at most 20000, got 20001"),
        (NextRequest, {"prompt": ["a", "b"]}, r"prompt\[0\] must"),
        (TokenizeRequest, {}, "prompt is required"),
        (TokenizeRequest, {"prompt": [1]}, r"prompt must be a valid string, got \[1\]"),
        (DetokenizeRequest, {}, "tokens is required"),
        (DetokenizeRequest, {"tokens": [-1]}, r"tokens\[0\] must be greater than or equal to 0, got -1"),
        (DetokenizeRequest, {"tokens": "a"}, "tokens must be a valid array, got 'a'"),
    ],
)
def test_an_invalid_field_of_another_request_is_named(kind, fields, message):
    with pytest.raises(InvalidRequest, match=message) as caught:
        parse(kind, json.dumps(fields).encode(), SETTINGS)
    assert message.startswith(caught.value.param)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stop": [1] * 1_000_000}, r"stop\[0\] must be a valid string, got 1"),
        ({"stop": ["a"] * 1_000_000}, "stop must have at most 16 items"),
        ({"prompt": [[]] * 1_000_000}, "prompt must have at most 4096 items"),
        ({"prompt": ["a"] * 1_000_000}, "prompt must have at most 4096 items"),
        ({"logit_bias": {str(i): 101 for i in range(200_000)}}, "logit_bias must have at most 1024 items"),
        ({f"u{i}": 1 for i in range(100_000)}, "^unknown field 'u0'$"),
    ],
    ids=["numbers", "stop strings", "lists", "prompts", "biases", "unknown fields"],
)
def test_a_million_invalid_items_are_one_error(fields, message):
    """Validation stops at the first one: no list of a million errors is built."""
    with pytest.raises(InvalidRequest, match=message) as caught:
        parsed(**fields)
    assert caught.value.__cause__.error_count() == 1


def test_one_invalid_token_id_among_a_million_is_named():
    assert len(parsed(prompt=[5] * 1_000_000).prompts[0]) == 1_000_000
    with pytest.raises(InvalidRequest, match=r"prompt\[999999\] must be a valid integer, got 'x'"):
        parsed(prompt=[*[5] * 999_999, "x"])


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("field", ["temperature", "top_p", "min_p", *PENALTIES, "timeout_s"])
def test_nan_and_infinity_are_rejected(field, number):
    """Some JSON writers emit them, and 1e999 becomes infinity; the error names the field."""
    with pytest.raises(InvalidRequest, match=f"{field} must be a finite number"):
        parse(CompletionRequest, f'{{"model": "m", "{field}": {number}}}'.encode(), SETTINGS)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "must be JSON"),
        (b"{", "must be JSON"),
        (b"hello", "must be JSON"),
        (b"\xff\xfe", "must be JSON"),
        (b'{"prompt": "\\ud800"}', "must be JSON"),
        (b"[1]", r"must be a JSON object, got \[1\]"),
        (b"null", "must be a JSON object, got None"),
    ],
)
def test_a_body_that_is_not_a_json_object_is_rejected(body, message):
    with pytest.raises(InvalidRequest, match=message):
        parse(CompletionRequest, body, SETTINGS)


def test_a_long_value_is_shortened_in_the_message():
    with pytest.raises(InvalidRequest) as caught:
        parsed(n="x" * 1_000_000)
    assert len(str(caught.value)) < 200


def test_a_number_of_a_schema_that_no_double_holds_is_an_invalid_request():
    with pytest.raises(InvalidRequest, match="guided_json cannot be written as JSON: Out of range float values"):
        _ = parse(CompletionRequest, b'{"model": "m", "guided_json": {"const": 1e400}}', SETTINGS).constraint


def parsed_change(**fields):
    return parse(ModelChange, json.dumps(fields).encode(), Settings())


def test_null_is_the_default_of_a_field_with_a_factory():
    assert parsed_change(labels=None, shares={}).labels == {}
    assert parsed_change(labels={"canary": None}, shares=None).shares is None
    body = {"model": "m", "training_file": "f", "settings": None}
    assert parse(FineTuningRequest, json.dumps(body).encode(), Settings()).settings == {}


@pytest.mark.parametrize(("value", "rule"), [(0, "be greater than or equal to 1, got 0"), ("x", "be 'auto', got 'x'")])
def test_a_hyperparameter_is_named_with_the_limit_of_its_type(value, rule):
    body = {"model": "m", "training_file": "f", "hyperparameters": {"n_epochs": value}}
    with pytest.raises(InvalidRequest, match=f"^hyperparameters.n_epochs must {rule}"):
        parse(FineTuningRequest, json.dumps(body).encode(), Settings())


def test_labels_and_shares_are_parsed():
    change = parsed_change(labels={"stable": 2.0, "old": None}, shares={"stable": 90, "7": 0.5})
    assert (change.labels, change.shares) == ({"stable": 2, "old": None}, {"stable": 90, "7": 0.5})


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({}, "labels", "labels must move a label, unless there are shares"),
        ({"labels": {}}, "labels", "labels must move a label"),
        ({"labels": {"previous": 1}}, "labels", "but not previous, which is set by itself, got 'previous'"),
        ({"labels": {"../x": 1}}, "labels", "have keys of 1 to 32 lower-case letters, .*, got '../x'"),
        ({"labels": {"x" * 33: 1}}, "labels", "have keys of 1 to 32"),
        ({"labels": {"stable": 2**63}}, "labels", "labels.stable must be less than 9223372036854775808"),
        ({"labels": {"stable": "2"}}, "labels", "labels.stable must be a valid integer, got '2'"),
        ({"labels": {"stable": True}}, "labels", "labels.stable must be a valid integer, got True"),
        ({"labels": {f"l{i}": 1 for i in range(17)}}, "labels", "at most 16 entries, got 17"),
        ({"shares": {"stable": 0}}, "shares", "have a share above 0"),
        ({"shares": {"stable": -1}}, "shares", "greater than or equal to 0, got -1"),
        ({"shares": {"stable": 1e10}}, "shares", "less than or equal to 1000000000"),
        ({"shares": {"Stable": 1}}, "shares", "labels or numbers of versions as keys, got 'Stable'"),
        ({"shares": {"0": 1}}, "shares", "got '0'"),
        ({"shares": {"1" * 20: 1}}, "shares", "as keys, got '1111"),
        ({"share": {"stable": 1}}, "share", "unknown field 'share': did you mean shares?"),
    ],
)
def test_an_error_names_field_limit_and_value(fields, param, message):
    with pytest.raises(InvalidRequest, match=message.replace("?", r"\?")) as raised:
        parsed_change(**fields)
    assert raised.value.param == param
