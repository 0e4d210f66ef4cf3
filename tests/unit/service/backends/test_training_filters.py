"""Training filters: those that were used last stay loaded."""

from types import SimpleNamespace

import pytest

from service.backends import training_filters
from service.backends.training_filters import TrainingFilters
from service.params import ModelVersion


@pytest.fixture
def loaded(monkeypatch):
    """The directories that filters were loaded from, in order."""
    paths = []
    monkeypatch.setattr(training_filters, "load_training_filter", lambda path: paths.append(path) or object())
    return paths


def version(number):
    """Return a version with a filter of its own."""
    card = SimpleNamespace(training_filter=SimpleNamespace(sha256=f"{number:064}"))
    return SimpleNamespace(ref=ModelVersion("demo", number), card=card)


def test_the_least_recently_used_filter_is_evicted(tmp_path, loaded, monkeypatch):
    """Not the one that was loaded first, if requests use it."""
    monkeypatch.setattr(TrainingFilters, "_MAX_FILTERS", 3)
    filters = TrainingFilters(tmp_path)
    first = filters.get(version(1))
    for number in (2, 3):
        filters.get(version(number))
    assert filters.get(version(1)) is first
    filters.get(version(4))
    assert filters.get(version(1)) is first
    assert len(loaded) == 4
    filters.get(version(2))
    assert len(loaded) == 5


@pytest.mark.parametrize(("content", "num_warnings"), [(None, 0), (b"damaged", 1)], ids=["missing", "damaged"])
def test_a_version_with_an_unreadable_filter_has_none(tmp_path, caplog, content, num_warnings):
    """The log names the file; a request for it is then refused as one of a version without a filter."""
    file = tmp_path / "demo/1/assets.extra/training.bloom"
    file.parent.mkdir(parents=True)
    if content:
        file.write_bytes(content)
    assert TrainingFilters(tmp_path).get(version(1)) is None
    assert [str(file) in message for message in caplog.messages] == [True] * num_warnings
