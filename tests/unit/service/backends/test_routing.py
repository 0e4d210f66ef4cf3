"""Which version a request gets: by its number, by its label, by its share; and what a file of shares may hold."""

from collections import Counter

import pytest

from service.backends.routing import Reference, Route, RoutingError, make_route, read_shares
from service.errors import ModelNotFound

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
def test_a_name_is_parted_from_what_follows_it(text, expected):
    """What is neither a number nor a label belongs to the name, and is not found with it."""
    assert Reference.parse(text) == expected


@pytest.mark.parametrize(
    ("labels", "before", "stable"),
    [
        ({}, None, 3),
        ({}, 1, 3),
        ({"stable": 1}, None, 1),
        ({"stable": 1}, 3, 1),
        # To be loaded yet: what answered goes on.
        ({"stable": 4}, 2, 2),
        ({"stable": 4}, 7, 3),
        ({"stable": 4}, None, 3),
    ],
)
def test_what_is_stable_answers(labels, before, stable):
    """The labelled version; until it lives that before it; and the newest where nothing is said."""
    route, problems = make_route("demo", [1, 3, 2], labels, {}, before)
    assert (route.stable, route.versions, problems) == (stable, (1, 2, 3), [])
    assert route.choose(PLAIN, 5) == route.choose(PLAIN, None) == stable
    assert route.choose(Reference("demo", label="stable"), 5) == stable


def test_a_version_or_a_label_is_taken_as_it_is_named():
    """Whatever the shares are."""
    route, _ = make_route("demo", [1, 2, 3], {"stable": 1, "canary": 3}, {"stable": 1}, None)
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
def test_what_is_not_there_is_told_with_what_is(reference, message):
    """The message names the version or label, and those that could have been asked for."""
    route, _ = make_route("demo", [1, 2], {"canary": 7}, {}, None)
    with pytest.raises(ModelNotFound, match=message) as info:
        route.choose(reference, 1)
    assert info.value.param == "model"


def test_shares_are_kept_and_a_seed_stays_where_it_is():
    """Of many seeds each version gets its share; one that a canary has stays with it when the canary grows."""
    versions = [1, 2, 3]
    before: set[int] = set()
    for share in (0, 5, 20, 50, 100):
        route, _ = make_route("demo", versions, {"canary": 3}, {"1": 100 - share, "canary": share}, None)
        chosen = {seed: route.choose(PLAIN, seed) for seed in range(4000)}
        assert {seed: route.choose(PLAIN, seed) for seed in range(4000)} == chosen
        canary = {seed for seed, version in chosen.items() if version == 3}
        assert abs(len(canary) / 4000 - share / 100) < 0.03
        assert before <= canary
        before = canary
    three = Route("demo", (1, 2, 3), 3, {}, {1: 0.2, 2: 0.2, 3: 0.6})
    counts = Counter(three.choose(PLAIN, seed) for seed in range(4000))
    assert [round(counts[version] / 400) for version in versions] == [2, 2, 6]
    assert Counter(Route("other", (1, 2, 3), 3, {}, {1: 1, 3: 1}).choose(PLAIN, seed) for seed in range(9)) != Counter(
        Route("demo", (1, 2, 3), 3, {}, {1: 1, 3: 1}).choose(PLAIN, seed) for seed in range(9)
    )


def test_who_has_no_seed_gets_the_largest_share():
    """Embeddings of different versions cannot be compared, so they are not shared out."""
    routes = [Route(f"m{i}", (1, 2, 3), 3, {}, {1: 0.3, 2: 0.4, 3: 0.3}) for i in range(20)]
    assert {route.choose(Reference(route.name), None) for route in routes} == {2}


def test_a_share_that_leads_nowhere_is_told_and_the_others_take_it():
    """A version that is not served, or no label: nobody is sent there."""
    shares = {"stable": 1, "9": 5, "beta": 5, "canary": 1, "2": 0}
    route, problems = make_route("demo", [1, 2], {"canary": 2}, shares, None)
    assert problems == ["version 9 is not served", "beta is no label of it"]
    assert route.shares == {2: 2.0}
    alone, _ = make_route("demo", [1, 2], {}, {"9": 1}, None)
    assert {alone.choose(PLAIN, seed) for seed in range(50)} == {2}


def test_a_file_of_shares_is_read(tmp_path):
    """A table for each model; no file is no shares."""
    path = tmp_path / "routing.toml"
    assert read_shares(path) == {}
    path.write_text('# shares\n[demo]\nstable = 90\ncanary = 10\n["my.model"]\n7 = 0.5\n')
    assert read_shares(path) == {"demo": {"stable": 90, "canary": 10}, "my.model": {"7": 0.5}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[demo\n", "routing.toml: "),
        ("demo = 5\n", r"demo must be a table such as \[demo\]"),
        ("[demo]\n", r"demo must be a table"),
        ("[demo]\nstable = -1\n", "demo.stable must be a number of at least 0, got -1"),
        ("[demo]\nstable = true\n", "demo.stable must be a number .*, got True"),
        ("[demo]\nstable = inf\n", "demo.stable must be a number .*, got inf"),
        ("[demo]\nstable = nan\n", "demo.stable must be a number .*, got nan"),
        ('[demo]\nstable = "90"\n', "demo.stable must be a number .*, got '90'"),
        ("[demo]\nStable = 1\n", "demo.Stable must be a label or the number of a version"),
        ("[demo]\nstable = 0\ncanary = 0\n", "demo must have a share above 0"),
        (b"\xff", "routing.toml: "),
    ],
)
def test_a_wrong_file_is_told_by_its_place(tmp_path, content, message):
    """File, model, line of it and value."""
    path = tmp_path / "routing.toml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(RoutingError, match=message):
        read_shares(path)
