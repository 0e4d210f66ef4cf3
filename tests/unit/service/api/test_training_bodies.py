"""The body that changes the labels and the traffic split of a model."""

import json

import pytest

from service.api.body import parse
from service.api.training import FineTuningRequest, ModelChange
from service.errors import InvalidRequest
from service.settings import Settings


def parsed(**fields):
    return parse(ModelChange, json.dumps(fields).encode(), Settings())


def test_null_is_the_default_of_a_field_with_a_factory():
    assert parsed(labels=None, shares={}).labels == {}
    assert parsed(labels={"canary": None}, shares=None).shares is None
    body = {"model": "m", "training_file": "f", "settings": None}
    assert parse(FineTuningRequest, json.dumps(body).encode(), Settings()).settings == {}


@pytest.mark.parametrize(("value", "rule"), [(0, "be greater than or equal to 1, got 0"), ("x", "be 'auto', got 'x'")])
def test_a_hyperparameter_is_named_with_the_limit_of_its_type(value, rule):
    body = {"model": "m", "training_file": "f", "hyperparameters": {"n_epochs": value}}
    with pytest.raises(InvalidRequest, match=f"^hyperparameters.n_epochs must {rule}"):
        parse(FineTuningRequest, json.dumps(body).encode(), Settings())


def test_labels_and_shares_are_parsed():
    change = parsed(labels={"stable": 2.0, "old": None}, shares={"stable": 90, "7": 0.5})
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
        parsed(**fields)
    assert raised.value.param == param
