"""The suite itself: its models, and its errors for a server or a directory that it cannot use."""

import re

import pytest

from contract.card import load_assets
from tests.ports import free_port
from tests.serving import given
from tests.serving.given import check_given
from tests.serving.repository import MADE_BY, VERSIONS, StaleModels, make_repository


def test_the_models_cover_every_kind_and_no_two_are_equal(serving_models):
    cards = [load_assets(serving_models / name / str(n))[0] for name, versions in VERSIONS.items() for n in versions]
    assert {card.cell for card in cards} == {"lstm", "gru", "simple_rnn"}
    assert {card.unit for card in cards} == {"character", "subword"}
    assert any(card.layers > 1 for card in cards)
    assert any(card.context for card in cards)
    assert len({card.weights_sha256 for card in cards}) == len(cards)


def test_making_the_models_again_changes_nothing(serving_models):
    before = {path: path.stat().st_mtime_ns for path in serving_models.glob("*/*/saved_model.pb")}
    make_repository(serving_models)
    assert {path: path.stat().st_mtime_ns for path in serving_models.glob("*/*/saved_model.pb")} == before
    assert len(before) == sum(len(versions) for versions in VERSIONS.values())


def test_models_of_another_state_of_the_code_are_refused(tmp_path):
    """Tests that pass with them would prove nothing about the present code."""
    (tmp_path / MADE_BY).write_text("another")
    with pytest.raises(StaleModels, match=re.escape(f"{tmp_path} was made by another state of the code; remove it")):
        make_repository(tmp_path)


def test_a_directory_without_models_is_a_usage_error(tmp_path):
    with pytest.raises(pytest.UsageError) as caught:
        check_given(None, tmp_path)
    assert str(caught.value) == f"--serving-models={tmp_path}: no models there; make serving-models makes them"


def test_an_unreachable_server_is_a_usage_error(serving_models):
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(pytest.UsageError, match=f"^--serving: backend {address}: UNAVAILABLE: ") as caught:
        check_given(address, serving_models)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("versions", "told"),
    [
        ({"absent": (1,)}, "--serving: backend ADDRESS: NOT_FOUND: "),
        ({"lstm": (2, 3)}, "--serving=ADDRESS: it serves versions 1, 2 of lstm, not 2, 3"),
    ],
    ids=["model", "versions"],
)
def test_a_server_of_other_models_is_a_usage_error(server, serving_models, monkeypatch, versions, told):
    check_given(server.address, serving_models)
    monkeypatch.setattr(given, "VERSIONS", versions)
    with pytest.raises(pytest.UsageError, match=f"^{told.replace('ADDRESS', server.address)}"):
        check_given(server.address, serving_models)
