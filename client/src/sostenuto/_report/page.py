"""A report as one page of HTML: no scripts, nothing loaded, plots as inline SVG.

A policy in the page allows its own style sheet by its hash and nothing else: generated text is never executed.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from sostenuto._report import plots
from sostenuto._report.display import NONE, NUM_VALUES, bits, metrics, percent
from sostenuto._report.markup import (
    SETS,
    TRAINING,
    cell,
    compared_cells,
    decimal,
    figure,
    key_of,
    number,
    panel,
    panels,
    record_cell,
    section,
    share_of,
    soft,
    subjects,
    table,
    text,
)
from sostenuto._report.plots import Series

STYLE = Path(__file__).with_suffix(".css").read_text(encoding="utf-8")
_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
POLICY = f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'"
CEILING = "<p>Real records that the model has not seen are the ceiling: a generator can hardly do better.</p>"
MAX_MATRIX = 12  # columns of a matrix of correlations
NUM_PAIRS = 20  # that are listed where there are more
MEASURES = (
    "Two columns of numbers: Pearson's r. Two of categories: Cramér's V. One of each: the correlation ratio η. "
    "Text columns are omitted."
)


def page(report: dict[str, Any]) -> str:
    parts = (
        *(_head, _overview, _validity, _lengths, _ngrams, _novelty, _columns, _correlations),
        *(_classifier, _definitions),
    )
    body = "\n".join(filter(None, (part(report) for part in parts)))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Report on {text(report['generated']['name'])}</title>\n"
        f"<style>{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _head(report: dict[str, Any]) -> str:
    def count(records: dict[str, Any], what: str) -> str:
        return f"{records['records']:,} {what} records ({text(records['name'])})"

    beside = f", beside {count(report['held_out'], 'held-out')}" if report["held_out"] else ""
    made = f"Sostenuto {text(report['sostenuto_version'])}, {text(report['created_at'])}, seed {report['seed']}"
    what = f"{count(report['generated'], 'generated')}, against {count(report['training'], 'training')}{beside}"
    return f"<h1>Report on generated records</h1>\n{soft(f'{what}. {made}.')}"


def _overview(report: dict[str, Any]) -> str:
    rows = [
        (f"<th scope='row'>{text(name)}</th>", *(number(text(value)) for value in values), cell(text(meaning)))
        for name, values, meaning in metrics(report)
    ]
    notes = [soft(text(note), small=True) for note in report["notes"]]
    names = [f"#{name}" for name, _, _ in subjects(report)]
    return section("Overview", CEILING if report["held_out"] else "", table(["", *names, ""], rows), *notes)


def _validity(report: dict[str, Any]) -> str:
    parts = []
    for name, _, subject in subjects(report):
        if subject["invalid_reasons"]:
            reasons = [(cell(text(why)), number(f"{count:,}")) for why, count in subject["invalid_reasons"].items()]
            examples = [
                (record_cell(each["record"]), cell(text(each["reason"]))) for each in subject["invalid_examples"]
            ]
            parts.append(table(["reason", "#records"], reasons, f"Invalid {name} records"))
            parts.append(table(["example", "reason"], examples))
    return section("Invalid records", *parts) if parts else ""


def _lengths(report: dict[str, Any]) -> str:
    edges = report["length_edges"]
    labels = [str(low) if high - low == 1 else f"{low}–{high - 1}" for low, high in pairwise(edges)]
    labels[-1] = f"≥ {edges[-2]}"
    series = [Series.of(name, css, subject["lengths"]["counts"]) for name, css, subject in subjects(report)]
    series.append(Series.of(*TRAINING, report["training"]["lengths"]["counts"]))
    plot = plots.histogram("Share of records by number of characters", series, labels)
    key = key_of([(each.name, each.css) for each in series])
    return section("Lengths", soft("Share of records by number of characters."), key, figure(plot))


def _ngrams(report: dict[str, Any]) -> str:
    found = subjects(report)
    rows = []
    for order in range(len(report["generated"]["ngrams"])):
        values = [(name, css, subject["ngrams"][order]["js_bits"]) for name, css, subject in found]
        shown = [(name, css, value, bits(value) or NONE) for name, css, value in values]
        rows.append(("characters" if order == 0 else f"{order + 1}-grams", shown))
    about = "Divergence from training in bits; shorter is closer. ⟦ and ⟧ mark the beginning and the end of a record."
    plot = plots.bars("Jensen-Shannon divergence from training in bits", rows)
    key = key_of([(name, css) for name, css, _ in found])
    differences = panels(map(_differences, report["generated"]["ngrams"]))
    return section("Characters and n-grams", soft(about), key, figure(plot), differences)


def _differences(found: dict[str, Any]) -> str:
    title = "Characters" if found["order"] == 1 else f"{found['order']}-grams"
    unseen = f"{percent(found['unseen_share'])} of those generated do not occur in the training sample."
    shown = table(["", "#generated", "#training"], _share_rows(found["differences"], "ngram", "training_share"))
    return panel(f"{title} that differ most", soft(unseen, small=True), shown)


def _share_rows(found: list[dict[str, Any]], what: str, beside: str) -> Iterator[list[str]]:
    """Yield what each entry counts, and its share among generated and among other records."""
    for each in found:
        yield [f"<td><code>{text(each[what])}</code></td>", *(number(share_of(each[key])) for key in ("share", beside))]


def _novelty(report: dict[str, Any]) -> str:
    series = [Series.of(name, css, subject["nearest"]["counts"]) for name, css, subject in subjects(report)]
    labels = [f"{i / len(series[0].shares):.2f}" for i in range(len(series[0].shares))]
    found = report["generated"]["nearest"]
    about = (
        f"Edits per character to the nearest training record, of {found['searched']:,} of the {found['novel']:,} novel "
        f"records, among {found['among']:,} of the {found['training']:,} distinct training records."
    )
    plot = plots.histogram("Share of novel records by distance to the nearest training record", series, labels)
    pairs = [
        (
            *compared_cells(pair["record"], pair["training"]),
            number(f"{pair['edits']}"),
            number(f"{pair['distance']:.3f}"),
        )
        for pair in found["pairs"]
    ]
    nearest = table(["generated", "nearest training record", "#edits", "#distance"], pairs, "The nearest pairs")
    key = key_of([(each.name, each.css) for each in series])
    return section("Novelty", soft(about), key, figure(plot), nearest, _repeats(report["generated"]))


def _repeats(subject: dict[str, Any]) -> str:
    titles = {"copies": "Copies of training records, word for word", "most_repeated": "Generated most often"}
    parts = []
    for name, title in titles.items():
        rows = [(record_cell(each["record"]), number(f"{each['count']:,}")) for each in subject[name]]
        if rows:
            parts.append(panel(title, table(["record", "#times"], rows)))
    return panels(parts) if parts else ""


def _columns(report: dict[str, Any]) -> str:
    """Return a panel for each column; nothing if there are none."""
    found = report["generated"]["columns"]
    if not found:
        return ""
    others = report["held_out"]["columns"] if report["held_out"] else [None] * len(found)
    sets = [(name, css) for name, css, _ in subjects(report)]
    shown = (panel(text(own["name"], 40), _column_panel(own, other)) for own, other in zip(found, others, strict=True))
    return section("Columns", key_of([*sets, TRAINING]), panels(shown))


def _column_panel(own: dict[str, Any], held_out: dict[str, Any] | None) -> str:
    sets = [(*SETS["generated"], own), *([] if held_out is None else [(*SETS["held_out"], held_out)])]
    divergence = ", ".join(f"{name} {bits(found['js_bits']) or NONE}" for name, _, found in sets)
    missing = f"missing {percent(own['missing_share']) or NONE} (training {percent(own['training_missing_share'])})"
    unseen = f"not in training {percent(own['unseen_share']) or NONE}"
    about = soft(f"{own['kind']}; JS in bits: {divergence}; {missing}; {unseen}", small=True)
    if own["kind"] == "number":
        return about + _number_plot(own, sets)
    if own["kind"] == "category":
        return about + _category_plot(own, sets)
    lengths = f"generated {own['mean_length'] or 0:.1f}, training {own['training_mean_length'] or 0:.1f}"
    return about + soft(f"characters on average: {lengths}", small=True)


def _number_plot(own: dict[str, Any], sets: list[tuple[str, str, dict[str, Any]]]) -> str:
    series = [Series.of(name, css, found["counts"]) for name, css, found in sets]
    series.append(Series.of(*TRAINING, own["training_counts"]))
    labels = [f"{edge:,.0f}" if abs(edge) >= 1000 else f"{edge:.4g}" for edge in own["edges"][:-1]]
    return plots.histogram(f"Distribution of {own['name']}", series, labels, width=380, height=150)


def _category_plot(own: dict[str, Any], sets: list[tuple[str, str, dict[str, Any]]]) -> str:
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
    return plots.bars(f"Values of {own['name']}", rows, width=420)


def _correlations(report: dict[str, Any]) -> str:
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


def _classifier(report: dict[str, Any]) -> str:
    found = report["generated"]["classifier"]
    if found is None:
        return ""
    against = found["against"].replace("_", "-")
    marks = [(f"generated / {against}", SETS["generated"][1], found["auc"], found["std"])]
    beside = report["held_out"] and report["held_out"]["classifier"]
    if beside:
        marks.append(("held-out / training", SETS["held_out"][1], beside["auc"], beside["std"]))
    rows = _share_rows(found["signs"], "feature", "real_share")
    about = (
        f"How well logistic regression tells generated from {against} records: the area under the ROC curve on records "
        f"that it was not trained on, mean ± standard deviation of {len(found['folds'])} folds of "
        f"{found['records']:,} records of each kind. At 0.5 it cannot."
    )
    caption = "What tells them apart most: share of the records that have it"
    signs = table(["n-gram, length or value", "#generated", f"#{against}"], rows, caption)
    return section("Classifier test", soft(about), figure(plots.scale("Area under the ROC curve", marks)), signs)


def _definitions(report: dict[str, Any]) -> str:
    terms = {
        "Valid, unique, novel": "A valid record passes all checks. Unique: distinct records among the valid ones. "
        "Novel: those of the distinct ones that are not in the training file.",
        "Jensen–Shannon divergence (JS)": "The mean of the Kullback–Leibler divergences of two distributions from "
        "their average, in bits: 0 for equal distributions, 1 for disjoint ones. It is larger for fewer records, so it "
        f"compares random samples of {report['compared_records']:,} records of each set.",
        "Distance": "Levenshtein's edit distance, divided by the number of characters of the longer record.",
        "Classifier": "Its features are n-grams of one to three characters, the length and, of a table, the values of "
        "columns and pairs of columns. It sees spelling and simple structure, not meaning.",
    }
    found = "".join(f"<dt>{text(term)}</dt><dd>{text(meaning, 1000)}</dd>" for term, meaning in terms.items())
    return section("Definitions", f"<dl>{found}</dl>")
