"""A report as a few lines of text, for a terminal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sostenuto._results import shortened

Cell = Callable[[dict[str, Any]], "str | None"]
GAP, NONE = 2, "–"
NUM_VALUES = 12  # of a column of categories that a report lists


def summary(report: dict[str, Any]) -> str:
    """Return the summary of a report: a line per metric, with that of held-out records if there are any."""
    names = ["generated", *(["held-out"] if report["held_out"] is not None else [])]
    rows = [("", *names, ""), *((name, *values, meaning) for name, values, meaning in metrics(report))]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for name, *values, meaning in rows:
        cells = [value.rjust(width) for value, width in zip(values, widths[1:-1], strict=True)]
        lines.append((" " * GAP).join([name.ljust(widths[0]), *cells, meaning]).rstrip())
    return "\n".join([*lines, *filter(None, [_pair(report)]), *report["notes"]])


def metrics(report: dict[str, Any]) -> list[tuple[str, list[str], str]]:
    """Return the metrics of the report: name, value of each set, and explanation."""
    subjects = [report[name] for name in ("generated", "held_out") if report[name] is not None]
    rows = [(name, [cell(subject) or NONE for subject in subjects], meaning) for name, cell, meaning in _rows(report)]
    return [row for row in rows if set(row[1]) != {NONE}]


def _rows(report: dict[str, Any]) -> list[tuple[str, Cell, str]]:
    near, size = report["generated"]["nearest"]["near_distance"], f"{report['compared_records']:,}"
    checks = " and ".join(name.replace("_", " ") for name in report["checks"])
    return [
        ("records", lambda s: f"{s['records']:,}", f"training: {report['training']['records']:,}"),
        ("valid", lambda s: percent(s["valid_share"]) if checks else None, f"by {checks}"),
        ("unique", lambda s: percent(s["unique_share"]), "distinct among the valid"),
        ("unique@1k", lambda s: percent(s["unique_at"]["1000"]), "of the first 1,000 valid ones"),
        ("unique@10k", lambda s: percent(s["unique_at"]["10000"]), "of the first 10,000 valid ones"),
        ("novel", lambda s: percent(s["novel_share"]), "of the distinct ones, not in the training file"),
        (
            "near copies",
            lambda s: percent(s["nearest"]["near_share"]),
            f"of the novel ones, at most {near:g} of their characters edited",
        ),
        (
            "median distance",
            lambda s: decimals(s["nearest"]["median"]),
            "edits per character to the nearest training record",
        ),
        ("length", lambda s: f"{s['lengths']['mean']:.1f} ± {s['lengths']['std']:.1f}", "characters"),
        (
            "lengths, JS",
            lambda s: bits(s["lengths"]["js_bits"]),
            f"bits from training (0: the same, 1: disjoint), of {size} records each",
        ),
        ("characters, JS", lambda s: bits(s["ngrams"][0]["js_bits"]), "bits"),
        ("2-grams, JS", lambda s: bits(s["ngrams"][1]["js_bits"]), "bits"),
        ("3-grams, JS", lambda s: bits(s["ngrams"][2]["js_bits"]), "bits"),
        ("columns, JS", _columns, "bits: the mean, and the column furthest from training"),
        ("correlations", _correlations, "mean difference from training"),
        ("classifier AUC", _auc, _against(report)),
    ]


def _columns(subject: dict[str, Any]) -> str | None:
    found = [column for column in subject["columns"] if column["js_bits"] is not None]
    if not found:
        return None
    mean, furthest = sum(c["js_bits"] for c in found) / len(found), max(found, key=lambda c: float(c["js_bits"]))
    return f"{bits(mean)}, {furthest['name'][:12]} {bits(furthest['js_bits'])}"


def _correlations(subject: dict[str, Any]) -> str | None:
    return decimals(subject["correlations"]["mean_difference"]) if subject["correlations"] else None


def _auc(subject: dict[str, Any]) -> str | None:
    found = subject["classifier"]
    return None if found is None else f"{found['auc']:.3f} ± {found['std']:.3f}"


def _against(report: dict[str, Any]) -> str:
    found = report["generated"]["classifier"]
    if found is None:
        return ""
    beside = ", held-out from training" if report["held_out"] is not None else ""
    return f"tells generated from {found['against'].replace('_', '-')}{beside} (0.5: cannot, 1: always)"


def _pair(report: dict[str, Any]) -> str:
    pairs = report["generated"]["nearest"]["pairs"]
    if not pairs:
        return ""
    pair = pairs[0]
    edits = "1 edit" if pair["edits"] == 1 else f"{pair['edits']} edits"
    record, training = shortened(pair["record"], 40), shortened(pair["training"], 40)
    return f"nearest to training: {record!r} ← {training!r} ({edits})"


def percent(share: float | None) -> str | None:
    """Return a share in percent; never 100% for less than all, and never 0% for more than none."""
    if share is None:
        return None
    rounded = f"{100 * share:.1f}%"
    if rounded == "100.0%" and share < 1:
        return "> 99.9%"
    return "< 0.1%" if rounded == "0.0%" and share > 0 else rounded


def bits(value: float | None) -> str | None:
    return None if value is None else f"{value:.4f}"


def decimals(value: float | None) -> str | None:
    return None if value is None else f"{value:.3f}"
