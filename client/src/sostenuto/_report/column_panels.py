"""The columns of a table and their correlations, as sections of the report's page."""

from __future__ import annotations

from typing import Any

from sostenuto._report import plots
from sostenuto._report.columns import NUM_VALUES
from sostenuto._report.display import NONE, bits, percent
from sostenuto._report.markup import (
    SETS,
    TRAINING,
    cell,
    decimal,
    key_of,
    number,
    panel,
    panels,
    section,
    share_of,
    soft,
    subjects,
    table,
    text,
)
from sostenuto._report.plots import Series

MAX_MATRIX = 12  # columns of a matrix of correlations
NUM_PAIRS = 20  # that are listed where there are more
MEASURES = (
    "Two columns of numbers: Pearson's r. Two of categories: Cramér's V. One of each: the correlation ratio η. "
    "Columns of texts are left out."
)


def columns_section(report: dict[str, Any]) -> str:
    """Return a panel for each column; nothing if there are none."""
    found = report["generated"]["columns"]
    if not found:
        return ""
    others = report["held_out"]["columns"] if report["held_out"] else [None] * len(found)
    sets = [(name, css) for name, css, _ in subjects(report)]
    shown = (panel(text(own["name"], 40), _column(own, other)) for own, other in zip(found, others, strict=True))
    return section("Columns", key_of([*sets, TRAINING]), panels(shown))


def _column(own: dict[str, Any], held_out: dict[str, Any] | None) -> str:
    sets = [(*SETS["generated"], own), *([] if held_out is None else [(*SETS["held_out"], held_out)])]
    divergence = ", ".join(f"{name} {bits(found['js_bits']) or NONE}" for name, _, found in sets)
    missing = f"missing {percent(own['missing_share']) or NONE} (training {percent(own['training_missing_share'])})"
    unseen = f"not in training {percent(own['unseen_share']) or NONE}"
    about = soft(f"{own['kind']}; JS in bits: {divergence}; {missing}; {unseen}", small=True)
    if own["kind"] == "number":
        return about + _numbers(own, sets)
    if own["kind"] == "category":
        return about + _categories(own, sets)
    lengths = f"generated {own['mean_length'] or 0:.1f}, training {own['training_mean_length'] or 0:.1f}"
    return about + soft(f"characters on average: {lengths}", small=True)


def _numbers(own: dict[str, Any], sets: list[tuple[str, str, dict[str, Any]]]) -> str:
    series = [Series.of(name, css, found["counts"]) for name, css, found in sets]
    series.append(Series.of(*TRAINING, own["training_counts"]))
    labels = [f"{edge:,.0f}" if abs(edge) >= 1000 else f"{edge:.4g}" for edge in own["edges"][:-1]]
    return plots.histogram(f"Distribution of {own['name']}", series, labels, width=380, height=150)


def _categories(own: dict[str, Any], sets: list[tuple[str, str, dict[str, Any]]]) -> str:
    rows = []
    by_value = [(name, css, {each["value"]: each["share"] for each in found["values"]}) for name, css, found in sets]
    for each in own["values"]:
        # Beyond the listed values of a set, the share of one is unknown.
        shares = [
            (name, css, found.get(each["value"], 0.0 if len(found) < NUM_VALUES else None))
            for name, css, found in by_value
        ]
        shares.append((*TRAINING, each["training_share"]))
        shown = [(name, css, share, NONE if share is None else share_of(share)) for name, css, share in shares]
        rows.append((each["value"], shown))
    top = max((share or 0.0 for _, row in rows for _, _, share, _ in row), default=0.0)
    return plots.bars(f"Values of {own['name']}", rows, top, width=420)


def correlations_section(report: dict[str, Any]) -> str:
    """Return the matrices of correlations, or the pairs that differ most; nothing if there are none."""
    found = report["generated"]["correlations"]
    if found is None:
        return ""
    names = list(dict.fromkeys(name for pair in found["pairs"] for name in pair["columns"]))
    if len(names) > MAX_MATRIX:
        return section("Correlations", soft(MEASURES), _furthest(found["pairs"]))
    places = [(names.index(pair["columns"][0]), names.index(pair["columns"][1])) for pair in found["pairs"]]
    sets = {"training": [pair["training_value"] for pair in found["pairs"]]}
    for name, _, subject in subjects(report):
        sets[name] = [pair["value"] for pair in subject["correlations"]["pairs"]]
    shown = (
        panel(name, plots.matrix(f"Correlations of {name} records", names, dict(zip(places, values, strict=True))))
        for name, values in sets.items()
    )
    return section("Correlations", soft(MEASURES), panels(shown))


def _furthest(pairs: list[dict[str, Any]]) -> str:
    largest = sorted(pairs, key=lambda pair: -abs((pair["value"] or 0) - (pair["training_value"] or 0)))[:NUM_PAIRS]
    rows = [
        (
            cell(text(" and ".join(pair["columns"]))),
            number(decimal(pair["value"])),
            number(decimal(pair["training_value"])),
        )
        for pair in largest
    ]
    return table(["columns", "#generated", "#training"], rows, f"The {len(rows)} pairs that differ most")
