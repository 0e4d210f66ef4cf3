"""Lookup of a servable by name and version or label."""

from pathlib import Path

import pytest

from contract.models_config import VersionPolicy
from model_server.config import ModelConfig
from model_server.errors import InvalidRequest, LabelRefused, ServableNotFound
from model_server.lookup import Lookup, new_labels

LOOKUP = Lookup({"a": {2: "a2", 10: "a10"}, "empty": {}}, {"a": {"stable": 2, "gone": 7}})


def config(**labels: int) -> dict[str, ModelConfig]:
    """Return a config of model `a` with these labels."""
    return {"a": ModelConfig("a", Path("/a"), VersionPolicy(), labels)}


@pytest.mark.parametrize(
    ("asked", "served"),
    [({}, "a10"), ({"version": 2}, "a2"), ({"label": "stable"}, "a2")],
    ids=["newest", "version", "label"],
)
def test_a_model_is_found_by_version_by_label_or_as_the_newest(asked: dict[str, object], served: str):
    """The newest version is the one with the highest number."""
    assert LOOKUP.find("a", **asked) == served


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ({"name": "b"}, r"^Servable not found for request: Latest\(b\)$"),
        ({"name": "empty"}, r"^Servable not found for request: Latest\(empty\)$"),
        ({"name": "a", "version": 3}, r"^Servable not found for request: Specific\(a, 3\)$"),
        ({"name": "a", "label": "gone"}, r"^Servable not found for request: Specific\(a, 7\)$"),
    ],
)
def test_an_unserved_model_or_version_is_not_found(asked: dict[str, object], text: str):
    """The messages are TensorFlow Serving's, because clients match on them."""
    with pytest.raises(ServableNotFound, match=text):
        LOOKUP.find(**asked)


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ({"name": "a", "label": "x"}, "^Unrecognized servable version label: x$"),
        ({"name": "b", "label": "stable"}, "^Unrecognized servable version label: stable$"),
        ({"name": ""}, "^ModelSpec has no name specified.$"),
    ],
)
def test_an_unknown_label_and_a_missing_name_are_invalid(asked: dict[str, object], text: str):
    """An unknown label is InvalidRequest, unlike an unknown version."""
    with pytest.raises(InvalidRequest, match=text):
        LOOKUP.find(**asked)


@pytest.mark.parametrize(
    ("label", "version", "allow", "is_allowed"),
    [
        ("stable", 10, False, True),
        ("new", 10, False, True),
        ("new", 3, False, False),
        ("new", 3, True, True),
        ("stable", 3, True, False),
        ("gone", 7, True, True),
        ("gone", 7, False, False),
    ],
)
def test_a_label_may_point_at_an_unavailable_version_only_when_allowed_and_new(
    label: str, version: int, allow: bool, is_allowed: bool
):
    """A label in use never moves to an unavailable version."""
    if is_allowed:
        assert new_labels(config(**{label: version}), LOOKUP, allow_unavailable=allow) == {"a": {label: version}}
    else:
        with pytest.raises(LabelRefused, match=f"version {version} of model a, which is not currently available"):
            new_labels(config(**{label: version}), LOOKUP, allow_unavailable=allow)
