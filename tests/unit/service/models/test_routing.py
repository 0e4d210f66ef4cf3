"""Routing: which version a request gets by number, label or traffic split."""

from collections import Counter

import pytest

from service.errors import ModelNotFound
from service.models.routing import Reference, Route, make_route

PLAIN = Reference("demo")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("demo", Reference("demo")),
        ("demo:3", Reference("demo", version=3)),
        ("demo@stable", Reference("demo", label="stable")),
        ("my.model-2@a_b-1", Reference("my.model-2", label="a_b-1")),
        ("demo:", Reference("demo:")),
        ("demo:x", Reference("demo:x")),
        ("demo:-1", Reference("demo:-1")),
        ("demo:" + "1" * 20, Reference("demo:" + "1" * 20)),
        ("demo@", Reference("demo@")),
        ("demo@Stable", Reference("demo@Stable")),
        ("", Reference("")),
        ("@", Reference("@")),
    ],
)
def test_a_reference_is_parsed_into_name_version_and_label(text, expected):
    """A suffix that is neither a number nor a label belongs to the name, which is then not found."""
    assert Reference.parse(text) == expected


@pytest.mark.parametrize(
    ("labels", "before", "stable"),
    [
        ({}, None, 3),
        ({}, 1, 3),
        ({"stable": 1}, None, 1),
        ({"stable": 1}, 3, 1),
        # The labeled version is not loaded yet: the one before stays.
        ({"stable": 4}, 2, 2),
        ({"stable": 4}, 7, 3),
        ({"stable": 4}, None, 3),
        # It cannot be loaded after a restart: version 3 was never promoted.
        ({"stable": 4, "previous": 2}, None, 2),
    ],
)
def test_the_stable_version_is_the_default(labels, before, stable):
    route, problems = make_route("demo", [1, 3, 2], labels, {}, before, [1, 3, 2])
    assert (route.stable, route.versions, problems) == (stable, (1, 2, 3), [])
    assert route.choose(PLAIN, 5) == route.choose(PLAIN, None) == stable
    assert route.choose(Reference("demo", label="stable"), 5) == stable


def test_an_explicit_version_or_label_overrides_the_traffic_split():
    route, _ = make_route("demo", [1, 2, 3], {"stable": 1, "canary": 3}, {"stable": 1}, None, [1, 2, 3])
    assert route.choose(Reference("demo", version=2), 5) == 2
    assert route.choose(Reference("demo", label="canary"), 5) == 3


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (Reference("demo", version=9), "version 9 of model 'demo' is not served; versions are: 1, 2"),
        (Reference("demo", label="beta"), "has no label 'beta'; labels are: canary, stable"),
        (Reference("demo", label="canary"), "canary, version 7, of model 'demo' is not served; versions are: 1, 2"),
    ],
)
def test_the_error_for_an_unknown_version_or_label_lists_the_known_ones(reference, message):
    route, _ = make_route("demo", [1, 2], {"canary": 7}, {}, None, [1, 2])
    with pytest.raises(ModelNotFound, match=message) as info:
        route.choose(reference, 1)
    assert info.value.param == "model"


def test_the_traffic_split_follows_its_shares_and_is_sticky_by_seed():
    versions = [1, 2, 3]
    before: set[int] = set()
    for share in (0, 5, 20, 50, 100):
        route, _ = make_route("demo", versions, {"canary": 3}, {"1": 100 - share, "canary": share}, None, versions)
        chosen = {seed: route.choose(PLAIN, seed) for seed in range(4000)}
        assert {seed: route.choose(PLAIN, seed) for seed in range(4000)} == chosen
        canary = {seed for seed, version in chosen.items() if version == 3}
        assert abs(len(canary) / 4000 - share / 100) < 0.03
        assert before <= canary
        before = canary
    before_growth = Route("demo", (1, 2, 3), 3, {}, {1: 80, 2: 10, 3: 10})
    grown = Route("demo", (1, 2, 3), 3, {}, {1: 60, 2: 15, 3: 25})
    of_two = [seed for seed in range(4000) if before_growth.choose(PLAIN, seed) == 2]
    assert {grown.choose(PLAIN, seed) for seed in of_two} <= {2, 3}
    three = Route("demo", (1, 2, 3), 3, {}, {1: 0.2, 2: 0.2, 3: 0.6})
    counts = Counter(three.choose(PLAIN, seed) for seed in range(4000))
    assert [round(counts[version] / 400) for version in versions] == [2, 2, 6]
    assert Counter(Route("other", (1, 2, 3), 3, {}, {1: 1, 3: 1}).choose(PLAIN, seed) for seed in range(9)) != Counter(
        Route("demo", (1, 2, 3), 3, {}, {1: 1, 3: 1}).choose(PLAIN, seed) for seed in range(9)
    )


def test_the_traffic_split_stays_while_no_backend_takes_calls():
    """Requests wait for a model server that restarts; those of a seed must not change their version."""
    route, problems = make_route("demo", [1, 2], {"stable": 1}, {"1": 50, "2": 50}, 1, [])
    assert (route.stable, route.shares, problems) == (1, {1: 50.0, 2: 50.0}, [])


def test_without_a_seed_the_version_with_the_largest_share_is_chosen():
    """Embeddings of different versions cannot be compared, so they are not split."""
    routes = [Route(f"m{i}", (1, 2, 3), 3, {}, {1: 0.3, 2: 0.4, 3: 0.3}) for i in range(20)]
    assert {route.choose(Reference(route.name), None) for route in routes} == {2}


def test_a_share_without_a_served_version_is_reported_and_goes_to_the_others():
    shares = {"stable": 1, "9": 5, "beta": 5, "canary": 1, "2": 0}
    route, problems = make_route("demo", [1, 2], {"canary": 2}, shares, None, [1, 2])
    assert problems == ["version 9 is not served", "it has no label beta"]
    assert route.shares == {2: 2.0}
    alone, _ = make_route("demo", [1, 2], {}, {"9": 1}, None, [1, 2])
    assert {alone.choose(PLAIN, seed) for seed in range(50)} == {2}
