"""Mutation testing: which mutants are made of a module, and which of them its tests catch."""

import ast
import textwrap

import pytest

from tests.mutants import PACKAGES, ROOT, mutants_of

MODULE = '''
def clamp(value: int | None, limit: int = 3) -> int:
    """Clamp 7 < 8."""
    if value is None:
        raise ValueError("must be at least 1" + f"{limit + 1}")
    print(value)
    return limit if value > limit else value
'''


@pytest.fixture
def module(tmp_path):
    """A module with one site of every kind of mutation."""
    path = tmp_path / "clamp.py"
    path.write_text(textwrap.dedent(MODULE).lstrip())
    return path


def test_each_mutant_is_one_change_that_a_test_can_detect(module):
    mutants = list(mutants_of(module, module.parent))
    assert sorted((mutant.line, mutant.before, mutant.after) for mutant in mutants) == [
        (1, "3", "4"),
        (3, "value is None", "(value is not None)"),
        (4, 'raise ValueError("must be at least 1" + f"{limit + 1}")', "pass"),
        (5, "print(value)", "pass"),
        (6, "return limit if value > limit else value", "return None"),
        (6, "value > limit", "(value >= limit)"),
    ]
    for mutant in mutants:
        ast.parse(mutant.source)
        assert mutant.source != module.read_text()


def test_the_packages_shares_sum_to_one_and_their_tests_exist():
    """A renamed directory of tests would make every mutant survive."""
    assert sum(share for share, _ in PACKAGES.values()) == pytest.approx(1)
    assert all((ROOT / test).exists() for _, tests in PACKAGES.values() for test in tests)
