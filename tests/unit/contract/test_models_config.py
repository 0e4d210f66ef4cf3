"""Entries of `models.config`."""

import pytest

from contract.models_config import VersionPolicy


@pytest.mark.parametrize(
    ("policy", "found", "wanted"),
    [
        (VersionPolicy(latest=1), [1, 10, 9], {10}),
        (VersionPolicy(latest=2), [1, 10, 9], {9, 10}),
        (VersionPolicy(latest=5), [1, 2], {1, 2}),
        (VersionPolicy(latest=1), [], set()),
        (VersionPolicy(), [1, 2], {1, 2}),
        (VersionPolicy(specific=frozenset({1, 4})), [1, 2], {1}),
    ],
)
def test_a_version_policy_selects_from_the_existing_versions(policy: VersionPolicy, found: list[int], wanted: set[int]):
    assert policy.select(found) == wanted
