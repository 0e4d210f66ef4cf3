"""A report on generated records: its measurements in order, as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any

from sostenuto._report import nearest
from sostenuto._report.classifier import classifier_report
from sostenuto._report.columns import MAX_COLUMNS, Column, column_report, columns_of, correlation_report
from sostenuto._report.distributions import length_edges, length_report, ngram_report
from sostenuto._report.records import InvalidInput, Records, require_same_columns, with_columns, with_equal_texts
from sostenuto._report.validator import num_cores
from sostenuto._report.validity import Checks, Validity, check
from sostenuto._version import __version__

SCHEMA_VERSION = 1
# Records of each set whose distributions are compared.
MAX_COMPARED, MAX_COMPARED_CHARACTERS = 100_000, 3_000_000
NUM_COPIES, NUM_REASONS = 10, 10
UNIQUE_AT = (1_000, 10_000, 100_000)
# Parts of the time of a report, as measured with 100,000 records of 30 characters on each side.
_STEPS = {"checking": 0.1, "comparing": 0.15, "searching": 0.6, "classifying": 0.15}
_CHECKING_BY_VALIDATOR = 0.6  # with a function such as RDKit's parser
Observe = Callable[[float, str], object]


@dataclass(frozen=True)
class Options:
    """Options of a report."""

    checks: Checks  # what makes a record valid
    near: float  # normalized edit distance up to which a record is a near copy of a training record
    smiles: bool  # whether to add the metrics of MOSES, by their names
    seed: int  # of the samples and the folds
    search_s: float = 20.0  # estimated CPU time of a search for nearest records
    num_workers: int | None = None  # threads of that search; None: one per core


def build_report(
    generated: Records,
    training: Records,
    held_out: Records | None,
    options: Options,
    observe: Observe = lambda *_: None,
) -> dict[str, Any]:
    """Return the report as JSON values; docs/how-to/report.md describes it.

    The arguments are those of `Report.compute`.

    Raises:
        InvalidArgument: there are no records, a column is missing, or a check is invalid.
    """
    for param, records in (("generated", generated), ("training", training), ("held_out", held_out)):
        if records is not None and not len(records):
            raise InvalidInput(f"{records.name} must have at least one record, got none", param)
    columns = training.columns
    if columns and not any(training.rows):
        named = ", ".join(columns)[:200]
        raise InvalidInput(f"{training.name} must have rows of {len(columns)} columns, {named}, got none", "training")
    generated = _as_table("generated", generated, training)
    held_out = None if held_out is None else _as_table("held_out", held_out, training)
    options = replace(options, checks=replace(options.checks, has_columns=bool(columns)))
    # As they were given, they are checked.
    given, given_held_out = generated, held_out
    if columns and options.checks.validator is None:
        generated, training = with_equal_texts(generated, training), with_equal_texts(training, training)
        held_out = None if held_out is None else with_equal_texts(held_out, training)
    progress = _Progress(observe, 1 if held_out is None else 2, has_validator=options.checks.validator is not None)
    basis = _Basis.of(generated, training, held_out, options, progress)
    on_generated = _subject(generated, given, basis, held_out, progress)
    on_held_out = None if held_out is None else _subject(held_out, given_held_out or held_out, basis, None, progress)
    observe(1.0, "done")
    return {
        "object": "report",
        "schema_version": SCHEMA_VERSION,
        "sostenuto_version": __version__,
        "created_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "seed": options.seed,
        "checks": options.checks.names(),
        "training": {
            "name": training.name,
            "records": len(training),
            "distinct": len(basis.training_forms),
            "lengths": length_report(basis.sample.texts, basis.edges),
        },
        "compared_records": basis.size,
        "length_edges": basis.edges,
        "generated": on_generated,
        "held_out": on_held_out,
        "notes": _notes(basis, held_out),
    }


def _as_table(param: str, records: Records, training: Records) -> Records:
    """Parse lines as rows of the training records' columns, if there are any."""
    if not training.columns:
        return Records(records.name, records.texts)
    return require_same_columns(param, with_columns(records, training.columns, training), training.columns)


class _Progress:
    """Adds up the parts of a report."""

    def __init__(self, observe: Observe, num_subjects: int, *, has_validator: bool) -> None:
        self._observe, self._done = observe, 0.0
        steps = {**_STEPS, **({"checking": _CHECKING_BY_VALIDATOR} if has_validator else {})}
        self._sizes = {name: size / sum(steps.values()) / num_subjects for name, size in steps.items()}

    def step(self, name: str, share: float = 1.0) -> Callable[[float], None]:
        """Return the callback for the completed share of a step; `share` is the step's share of its kind."""
        begun, size = self._done, self._sizes[name] * share
        self._done += size

        def advance(part: float) -> None:
            self._observe(min(1.0, begun + size * part), name)

        advance(0.0)
        return advance


@dataclass(frozen=True)
class _Basis:
    """Data that all parts of a report share."""

    training: Records
    sample: Records  # of the training records, of `size`
    # Records of each set whose distributions are compared: equal numbers, as a divergence is larger for fewer records.
    size: int
    training_forms: set[str]  # in which training records are compared with others
    edges: list[int]  # of the bins of lengths
    columns: list[Column]  # of the training records
    options: Options

    @classmethod
    def of(
        cls, generated: Records, training: Records, held_out: Records | None, options: Options, progress: _Progress
    ) -> _Basis:
        """Sample the training records, and canonicalize them if the validator does."""
        every = [records for records in (generated, training, held_out) if records is not None]
        longest = max(sum(map(len, records.texts)) / len(records) for records in every)
        size = min(MAX_COMPARED, max(1, int(MAX_COMPARED_CHARACTERS / max(1.0, longest))), *map(len, every))
        samples = [records.sample(size, options.seed).texts for records in every]
        forms = set(training.texts)
        if options.checks.validator is not None:
            only = Records(training.name, sorted(forms))
            found = check(only, Checks(validator=options.checks.validator), progress.step("checking", 0.5))
            # An invalid training record can still be copied.
            forms = {form or text for form, text in zip(found.forms, only.texts, strict=True)}
        sample, edges = training.sample(size, options.seed), length_edges(samples)
        return cls(training, sample, size, forms, edges, columns_of(training), options)


def _subject(
    records: Records, given: Records, basis: _Basis, held_out: Records | None, progress: _Progress
) -> dict[str, Any]:
    options = basis.options
    share = 0.5 if options.checks.validator is not None else 1.0
    validity = check(given, options.checks, progress.step("checking", share))
    if options.checks.validator is None:
        forms = [form and text for form, text in zip(validity.forms, records.texts, strict=True)]
        validity = replace(validity, forms=forms)
    sample, compare = records.sample(basis.size, options.seed), progress.step("comparing")
    report = {
        "name": records.name,
        "records": len(records),
        **_counts(records, validity, basis),
        "lengths": length_report(sample.texts, basis.edges, basis.sample.texts),
        "ngrams": ngram_report(sample.texts, basis.sample.texts),
        "columns": column_report(sample, basis.sample, basis.columns),
        "correlations": correlation_report(sample, basis.sample, basis.columns) if basis.training.columns else None,
    }
    compare(1.0)
    report["nearest"] = _nearest(validity, basis, progress)
    report["classifier"] = _classifier(records, validity, basis, held_out, progress)
    if options.smiles:
        report["moses"] = _moses(report, options)
    return report


def _counts(records: Records, validity: Validity, basis: _Basis) -> dict[str, Any]:
    valid = [form for form in validity.forms if form is not None]
    distinct = dict.fromkeys(valid)
    copies = Counter(form for form in valid if form in basis.training_forms)
    repeated = Counter(valid)
    at = {f"{size}": len(set(valid[:size])) / size if len(valid) >= size else None for size in UNIQUE_AT}
    num_novel = len(distinct) - len(copies)
    return {
        "valid": len(valid),
        "valid_share": len(valid) / len(records),
        "invalid_reasons": dict(validity.reasons.most_common(NUM_REASONS)),
        "invalid_examples": [{"record": text, "reason": reason} for text, reason in validity.examples],
        "distinct": len(distinct),
        "unique_share": len(distinct) / len(valid) if valid else None,
        "unique_at": at,
        "most_repeated": [{"record": text, "count": n} for text, n in repeated.most_common(NUM_COPIES) if n > 1],
        "novel": num_novel,
        "novel_share": num_novel / len(distinct) if distinct else None,
        "copied_share": copies.total() / len(valid) if valid else None,
        "copies": [{"record": text, "count": n} for text, n in copies.most_common(NUM_COPIES)],
    }


def _distinct(records: Records, forms: Sequence[str | None]) -> Records:
    """Return the first record of each form; None is the form of an invalid one."""
    first: dict[str, int] = {}
    for index, form in enumerate(forms):
        if form is not None:
            first.setdefault(form, index)
    return records.take(list(first.values()))


def _nearest(validity: Validity, basis: _Basis, progress: _Progress) -> dict[str, Any]:
    known = basis.training_forms | set(basis.training.texts)
    forms = dict.fromkeys(form for form in validity.forms if form is not None)
    novel = Records("", [form for form in forms if form not in known])
    distinct = Records("", sorted(basis.training_forms))
    num_searched, num_among = nearest.sizes(novel.texts, len(distinct), basis.options.search_s)
    seed, advance = basis.options.seed, progress.step("searching")
    searched, among = novel.sample(num_searched, seed), distinct.sample(num_among, seed)
    found = nearest.nearest_report(
        searched.texts, among.texts, basis.options.near, basis.options.num_workers or num_cores(), advance
    )
    return {"novel": len(novel), "training": len(distinct), **found}


def _classifier(
    records: Records, validity: Validity, basis: _Basis, held_out: Records | None, progress: _Progress
) -> dict[str, Any] | None:
    against = "training" if held_out is None else "held_out"
    real = basis.training if held_out is None else held_out
    return classifier_report(
        _distinct(records, validity.forms),
        _distinct(real, real.texts),
        against,
        basis.options.seed,
        progress.step("classifying"),
    )


def _moses(report: dict[str, Any], options: Options) -> dict[str, Any]:
    """Return the metrics of MOSES (Polykovskiy et al. 2020) by name, without those that need a neural network."""
    return {
        "valid": None if options.checks.validator is None else report["valid_share"],
        "unique@1k": report["unique_at"]["1000"],
        "unique@10k": report["unique_at"]["10000"],
        "novelty": report["novel_share"],
    }


def _notes(basis: _Basis, held_out: Records | None) -> list[str]:
    """Return notes that readers need to interpret the numbers."""
    notes = []
    if not basis.options.checks.names():
        notes.append("No check was given: every record counts as valid.")
    if held_out is None:
        notes.append(
            "No held-out records were given: there is no ceiling, and the classifier compares with training records."
        )
    if len(basis.training.columns) > MAX_COLUMNS:
        notes.append(f"The first {MAX_COLUMNS} of {len(basis.training.columns)} columns are reported.")
    if basis.options.smiles:
        notes.append("FCD is omitted: it needs its own neural network (ChemNet).")
        if basis.options.checks.validator is None:
            notes.append(
                "MOSES compares canonical SMILES of molecules that RDKit accepts. Without a validator that returns "
                "them, unique and novelty count spellings, and valid is unknown."
            )
    return notes
