"""Training filters: those that were used last stay loaded, and an unusable one is an error of the server."""

import shutil
from types import SimpleNamespace

import pytest

from service.errors import TrainingFilterUnusable
from service.models import training_filters
from service.models.training_filters import TrainingFilters
from service.scheduling.sequence import ModelVersion
from tests.unit.contract.test_training_filter import of_spans

FILTER = of_spans(range(50), 10)


@pytest.fixture
def loads(monkeypatch):
    paths, load = [], training_filters.load_training_filter
    monkeypatch.setattr(training_filters, "load_training_filter", lambda *path: paths.append(path) or load(*path))
    return paths


def version(number, training_filter=FILTER):
    card = SimpleNamespace(training_filter=SimpleNamespace(sha256=training_filter.sha256()))
    return SimpleNamespace(ref=ModelVersion("demo", number), card=card)


def published(models_dir, number, training_filter=FILTER):
    path = models_dir / "demo" / str(number) / "assets.extra" / "training.bloom"
    path.parent.mkdir(parents=True)
    path.write_bytes(training_filter.to_bytes())
    return version(number, training_filter), path


def test_the_least_recently_used_filter_is_evicted(tmp_path, loads, monkeypatch):
    versions = [published(tmp_path, number, of_spans(range(number, 50), 10))[0] for number in (1, 2, 3, 4)]
    monkeypatch.setattr(training_filters, "MAX_CACHE_BYTES", 3 * FILTER.num_bytes)
    filters = TrainingFilters(tmp_path)
    first = filters.get(versions[0])
    for each in versions[1:3]:
        filters.get(each)
    assert filters.get(versions[0]) is first
    filters.get(versions[3])
    assert filters.get(versions[0]) is first
    assert len(loads) == 4
    filters.get(versions[1])
    assert len(loads) == 5


def test_a_loaded_filter_survives_its_file(tmp_path):
    own, path = published(tmp_path, 1)
    filters = TrainingFilters(tmp_path)
    loaded = filters.get(own)
    with path.open("r+b") as file:
        file.truncate(100)
    assert filters.get(own) is loaded
    assert loaded.contains(range(50), "")


DAMAGES = {
    "missing": lambda path: path.unlink(),
    "truncated": lambda path: path.write_bytes(FILTER.to_bytes()[:100]),
    "altered": lambda path: path.write_bytes(of_spans(range(1, 50), 10).to_bytes()),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_unusable_filter_is_an_error_of_the_server_until_it_is_repaired(tmp_path, caplog, loads, damage):
    own, path = published(tmp_path, 1)
    DAMAGES[damage](path)
    filters = TrainingFilters(tmp_path)
    for _ in range(3):
        with pytest.raises(TrainingFilterUnusable, match="filter of version 1 is missing or damaged") as caught:
            filters.get(own)
    assert (caught.value.status, caught.value.headers()["x-should-retry"]) == (500, "false")
    assert [str(path) in message for message in caplog.messages] == [True]
    assert len(loads) == 1
    shutil.rmtree(tmp_path / "demo")
    published(tmp_path, 1)
    assert filters.get(own).to_bytes() == FILTER.to_bytes()


def test_a_version_whose_card_describes_no_filter_has_none(tmp_path):
    published(tmp_path, 1)
    assert TrainingFilters(tmp_path).get(SimpleNamespace(card=SimpleNamespace(training_filter=None))) is None
