"""A user's function in a process of its own."""

import pytest

from sostenuto import InvalidArgument, Report
from sostenuto._report import validator
from sostenuto._report.validator import Validator

CHECKS = "tests.unit.client.report.checks"


def verdicts(function, texts, timeout_s=20.0):
    return Validator(f"{CHECKS}:{function}", timeout_s).check(texts, lambda _: None)


def test_a_function_says_which_records_are_valid():
    """What it prints is not taken for an answer."""
    assert verdicts("short", ["abc", "abcd"]) == [("abc", None), (None, "refused by the validator")]


def test_records_are_compared_in_the_form_that_the_function_returns():
    found = Report.compute(["Ab", "aB", "C", "7"], ["c", "d"], validator=f"{CHECKS}:lower").data["generated"]
    assert (found["valid"], found["distinct"], found["novel"]) == (3, 2, 1)
    assert found["copies"] == [{"record": "c", "count": 1}]


def test_a_record_that_makes_the_function_raise_hang_or_crash_is_invalid_and_the_others_are_checked():
    texts = ["a", "raise", "b", "hang", "c", "crash", "d"]
    found = dict(zip(texts, verdicts("fragile", texts, timeout_s=1.5), strict=True))
    assert [text for text, (form, _) in found.items() if form] == ["a", "b", "c", "d"]
    assert found["raise"][1] == "the validator raised ValueError: no such record"
    assert found["hang"][1] == "the validator took longer than 1.5 s"
    assert found["crash"][1] == "the validator's process ended"


def test_many_records_are_checked_by_several_processes_in_order(monkeypatch):
    monkeypatch.setattr(validator, "num_cores", lambda: 3)
    texts = ["a" * (i % 7) for i in range(1000)]
    parts = []
    found = Validator(f"{CHECKS}:short", 20.0).check(texts, parts.append)
    assert [form for form, _ in found] == [text if len(text) <= 3 else None for text in texts]
    assert max(parts) == 1


def test_a_function_that_always_hangs_ends_the_check(monkeypatch):
    monkeypatch.setattr(validator, "MAX_FAILURES", 2)
    with pytest.raises(
        InvalidArgument, match=r"must answer within 0\.2 s for each record, but hung or crashed 2 times"
    ):
        verdicts("hangs", ["a", "b", "c"], timeout_s=0.2)


def test_the_error_of_a_later_part_is_the_one_that_is_raised(monkeypatch):
    monkeypatch.setattr(validator, "MAX_FAILURES", 1)
    monkeypatch.setattr(validator, "MIN_RECORDS", 1)
    monkeypatch.setattr(validator, "num_cores", lambda: 2)
    with pytest.raises(InvalidArgument, match="hung or crashed 1 times, last on 'crash'"):
        verdicts("fragile", ["hang", "crash"])


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        ("no_such_module:f", "ModuleNotFoundError"),
        (f"{CHECKS}:nothing", "AttributeError"),
        (f"{CHECKS}:NUMBER", "TypeError: NUMBER is not callable"),
        ("", "ValueError"),
    ],
)
def test_a_function_that_cannot_be_imported_is_named(target, problem):
    with pytest.raises(InvalidArgument, match=f"validator must be module:function, got {target!r}: {problem}"):
        Validator(target, 20.0).check(["a"], lambda _: None)
