"""Entries of `models.config`, and the format of `routing.toml`."""

import pytest

from contract.errors import ContractError
from contract.models_config import VersionPolicy, read_shares, version_numbers


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


def test_a_version_has_a_number_that_model_servers_accept(tmp_path):
    """A copy named by a time in microseconds has 20 digits: gateways waited for it as the newest version."""
    for name in ("2", "010", "20261201141551123456", str(2**63), "²", "3.tmp", ".draft-0123"):
        (tmp_path / name).mkdir()
    assert version_numbers(tmp_path) == [2, 10]


def test_routing_toml_has_a_table_of_shares_for_each_model(tmp_path):
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
        ("[demo]\nstable = -1\n", "demo.stable must be a number from 0 to 1e\\+09, got -1"),
        (f"[demo]\nstable = 1{400 * '0'}\n", "demo.stable must be a number .*, got 1000"),
        (f"[demo]\nstable = {5000 * '1'}\n", "routing.toml: "),
        (f"[demo]\n{5000 * '1'} = 1\n", "must be a label or the number of a version"),
        ("[demo]\nstable = true\n", "demo.stable must be a number .*, got True"),
        ("[demo]\nstable = inf\n", "demo.stable must be a number .*, got inf"),
        ("[demo]\nstable = nan\n", "demo.stable must be a number .*, got nan"),
        ('[demo]\nstable = "90"\n', "demo.stable must be a number .*, got '90'"),
        ("[demo]\nStable = 1\n", "demo.Stable must be a label or the number of a version"),
        ('[demo]\n"²" = 1\n', "demo.² must be a label or the number of a version"),
        ("[demo]\nstable = 0\ncanary = 0\n", "demo must have a share above 0"),
        (b"\xff", "routing.toml: "),
    ],
)
def test_the_error_for_an_invalid_routing_toml_names_key_and_value(tmp_path, content, message):
    """Operators edit it by hand."""
    path = tmp_path / "routing.toml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ContractError, match=message):
        read_shares(path)
