"""Each metric of a report on data so small that its value is known by hand."""

import math
import random
import tracemalloc

import numpy as np
import pytest

from sostenuto._report.classifier import area_under_curve, classifier_report
from sostenuto._report.columns import columns_of, correlation_ratio, correlation_report, cramers_v, kind_of, pearson
from sostenuto._report.distributions import (
    END,
    START,
    jensen_shannon,
    length_edges,
    length_report,
    ngram_report,
    ngrams,
    shown,
)
from sostenuto._report.nearest import MAX_RECORDS, nearest_report, sizes
from sostenuto._report.records import Records


def nothing(_):
    """Show no progress."""


def test_the_divergence_has_its_defined_value():
    """With p = (1, 0), q = (1/2, 1/2), m = (3/4, 1/4): (log2(4/3) + (log2(2/3) + log2(2)) / 2) / 2."""
    assert jensen_shannon(np.array([1, 3]), np.array([2, 6])) == 0
    assert jensen_shannon(np.array([5, 0]), np.array([0, 7])) == 1
    assert jensen_shannon(np.array([0, 0]), np.array([1, 1])) is None
    expected = (math.log2(4 / 3) + (math.log2(2 / 3) + 1) / 2) / 2
    assert jensen_shannon(np.array([4, 0]), np.array([1, 1])) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("order", "expected"), [(1, ["a", "é", "😀"]), (2, ["⟦a", "aé", "é⟧", "⟦😀", "😀⟧"]), (3, ["⟦aé", "aé⟧", "⟦😀⟧"])]
)
def test_ngrams_are_those_of_each_record_with_its_beginning_and_end(order, expected):
    keys, owners = ngrams(["aé", "😀"], order)
    assert [shown(int(key), order) for key in keys] == expected
    assert owners.tolist() == [0] * (len(expected) - (2 if order == 2 else 1)) + [1] * (2 if order == 2 else 1)


def test_no_ngram_reaches_over_two_records_and_short_texts_have_none():
    assert ngrams(["", "a"], 1)[1].tolist() == [1]
    assert len(ngrams([], 2)[0]) == 0
    marks = "".join(shown(int(key), 2) for key in ngrams(["", ""], 2)[0])
    assert START not in marks
    assert END not in marks


def test_the_ngrams_that_differ_most_come_first_with_their_shares():
    characters = ngram_report(["aaab"], ["aabb"])[0]
    assert characters["unseen_share"] == 0
    assert {each["ngram"]: (each["share"], each["training_share"]) for each in characters["differences"]} == {
        "a": (0.75, 0.5),
        "b": (0.25, 0.5),
    }
    assert ngram_report(["xxb"], ["ab"])[0]["differences"][0]["ngram"] == "x"
    assert ngram_report(["xxb"], ["ab"])[0]["unseen_share"] == pytest.approx(2 / 3)


def test_lengths_have_their_statistics_and_a_bin_for_each():
    texts = ["a", "bb", "bb", "cccc"]
    edges = length_edges([texts])
    assert edges == [1, 2, 3, 4, 5]
    report = length_report(texts, edges, ["a", "bb", "bb", "cccc"] * 3)
    assert report["counts"] == [1, 2, 0, 1]
    assert (report["mean"], report["median"], report["min"], report["max"]) == (2.25, 2, 1, 4)
    assert report["js_bits"] == 0


def test_the_nearest_record_is_that_of_the_smallest_normalized_edit_distance():
    report = nearest_report(["kitten", "zzzz"], ["sitting", "mitten"], 0.2, 1, nothing)
    assert report["pairs"] == [
        {"record": "kitten", "training": "mitten", "edits": 1, "distance": 1 / 6},
        {"record": "zzzz", "training": "sitting", "edits": 7, "distance": 1.0},
    ]
    assert (report["near_share"], report["searched"], report["among"]) == (0.5, 2, 2)
    assert report["mean"] == pytest.approx((1 / 6 + 1) / 2)
    assert sum(report["counts"]) == 2
    assert report["counts"][3] == report["counts"][-1] == 1


def test_a_distance_equal_to_the_threshold_is_near():
    assert nearest_report(["abcde"], ["abcdx"], 0.2, 1, nothing)["near_share"] == 1


def test_only_the_beginning_of_long_records_is_compared():
    report = nearest_report(["a" * 500 + "b"], ["a" * 500 + "c" * 99], 0.2, 1, nothing)
    assert report["pairs"][0]["distance"] == 0


@pytest.mark.parametrize(
    ("length", "num_training", "searched", "among"),
    [(8, 1000, MAX_RECORDS, 1000), (30, 10**6, 606, 10**6), (500, 10**6, 200, 5555)],
)
def test_the_search_has_a_bounded_cost(length, num_training, searched, among):
    assert sizes(["a" * length] * MAX_RECORDS, num_training, 20.0) == (searched, among)


def test_the_area_under_the_curve_counts_pairs_in_the_right_order():
    """Of four pairs two are right, one is a tie and one is wrong."""
    assert area_under_curve(np.array([0.9, 0.5, 0.5, 0.1]), np.array([1, 0, 1, 0])) == pytest.approx(3.5 / 4)
    assert area_under_curve(np.array([1.0, 1.0, 1.0]), np.array([1, 0, 0])) == 0.5
    assert area_under_curve(np.array([1.0, 2.0]), np.array([1, 0])) == 0


def names(prefix, count):
    """Return different records with some character in front."""
    digits = [f"{i:03}" for i in range(count)]
    return Records("", [f"{prefix}{each.translate(str.maketrans('0123456789', 'abcdefghij'))}" for each in digits])


def test_the_classifier_tells_records_apart_that_differ_and_names_the_difference():
    report = classifier_report(names("x", 200), names("y", 200), "held_out", 0, nothing)
    assert report["auc"] == 1
    assert (report["std"], report["records"], report["against"]) == (0, 200, "held_out")
    assert {"x", "y"} <= {sign["feature"].strip("⟦") for sign in report["signs"][:6]}
    assert (report["signs"][0]["share"], report["signs"][0]["real_share"]) in {(1, 0), (0, 1)}


def test_the_classifier_cannot_tell_records_of_one_source_apart():
    rng = np.random.default_rng(0)
    both = [Records("", ["".join(rng.choice(list("abcdef"), 6)) for _ in range(1000)]) for _ in range(2)]
    report = classifier_report(*both, "held_out", 0, nothing)
    assert abs(report["auc"] - 0.5) < 0.05


def test_the_classifier_is_reproducible_and_needs_some_records():
    pair = names("x", 50), names("xa", 50)
    assert classifier_report(*pair, "held_out", 3, nothing) == classifier_report(*pair, "held_out", 3, nothing)
    assert classifier_report(names("x", 19), names("y", 50), "held_out", 0, nothing) is None


def test_the_classifier_sees_pairs_of_values_of_a_table():
    """Each column alone has the same distribution; only their combination differs."""
    equal = [["a", "a"], ["b", "b"]] * 60
    crossed = [["a", "b"], ["b", "a"]] * 60
    rng = random.Random(0)
    texts = [[f"{rng.getrandbits(32):032b}" for _ in equal] for _ in range(2)]
    both = [Records("", text, ("one", "two"), rows) for text, rows in zip(texts, (equal, crossed), strict=True)]
    assert classifier_report(*both, "held_out", 0, nothing)["auc"] == 1


def test_the_classifier_cannot_tell_copies():
    """With a copy in the training folds, under the other label, it would call each record the opposite."""
    rng = random.Random(0)
    texts = [f"{rng.getrandbits(32):032b}" for _ in range(100)]
    copied = [Records("", order) for order in (texts, texts[::-1])]
    assert classifier_report(*copied, "held_out", 0, nothing)["auc"] == pytest.approx(0.5)


def test_correlations_have_their_defined_values():
    numbers = np.array([1.0, 2.0, 3.0, 4.0])
    assert pearson(numbers, -2 * numbers) == pytest.approx(-1)
    assert pearson(numbers, np.ones(4)) is None
    codes = np.array([0, 0, 1, 1])
    assert cramers_v(codes, codes) == pytest.approx(1)
    assert cramers_v(codes, np.array([0, 1, 0, 1])) == pytest.approx(0)
    assert cramers_v(codes, np.zeros(4, int)) is None
    # Between the groups lie 4 of 5 parts of the variance.
    assert correlation_ratio(numbers, codes) == pytest.approx(math.sqrt(4 / 5))
    assert correlation_ratio(numbers, np.zeros(4, int)) is None


def test_a_constant_column_has_no_correlation():
    """Also where the mean of its values is not exactly one of them, so that their computed deviation is not zero."""
    constant, others = np.full(7, 0.1), np.arange(7.0)
    assert constant.std() > 0
    assert pearson(constant, others) is None
    assert correlation_ratio(constant, np.array([0, 0, 0, 1, 1, 1, 1])) is None
    tiny = others * 1e-200
    assert pearson(tiny, others) is None
    assert correlation_ratio(tiny, np.array([0, 0, 0, 1, 1, 1, 1])) is None


def test_correlations_take_memory_for_the_values_that_occur():
    """Generated values may all be different, and one of them long."""
    training = Records("", ["-"] * 3000, ("a", "b"), [[f"x{i % 7}", f"y{i % 5}"] for i in range(3000)])
    generated = Records("", ["-"] * 3000, ("a", "b"), [[f"x{i}", f"y{i}"] for i in range(3000)])
    generated.rows[0] = ["x", "y" * 10_000]
    tracemalloc.start()
    (pair,) = correlation_report(generated, training, columns_of(training))["pairs"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (pair["measure"], pair["value"]) == ("cramers_v", pytest.approx(1))
    assert peak < 10e6


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["1", "2.5", "-3e2", None], "number"),
        (["1", "x"], "category"),
        ([f"name {i}" for i in range(100)], "text"),
        ([f"city {i % 70}" for i in range(1000)], "category"),
        (["nan", "inf"], "category"),
        (["2024_05", "2024_06"], "category"),
    ],
)
def test_the_kind_of_a_column_follows_from_its_training_values(values, kind):
    assert kind_of(values) == kind
