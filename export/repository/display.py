"""The commands `list`, `show`, `compare` and `verify`, which print versions and change nothing."""

import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from contract import signatures
from contract.files import write_atomically
from export.command import PATH, Command, import_tensorflow_quietly, json_option, models_dir_option
from export.config import MODELS
from export.errors import PublishError, RepositoryError
from export.interrupts import deferred_interrupts, raise_if_interrupted
from export.repository import card_facts
from export.repository.card_facts import Facts, architecture, epochs_text, reported, sample_text, setting_text
from export.repository.comparison import METRICS, Candidate, Comparison
from export.repository.history import read_history
from export.repository.models_config import ConfigEntry, read_entries
from export.repository.plots import Run, comparison_png
from export.repository.versions import SAVED_MODEL, Model, Repository, Version
from export.terminal import (
    NOTHING,
    Column,
    echo,
    file_size,
    format_number,
    terminal_width,
    text_table,
    to_json,
    utc_time,
    visible,
    wrap_sample,
)

_COLUMNS = (
    Column("MODEL"),
    Column("VERSION", right=True),
    Column("UNIT", rank=1),
    Column("ARCHITECTURE"),
    Column("PARAMETERS", right=True, rank=2),
    Column("LOSS", right=True),
    Column("BITS/CHAR", right=True),
    Column("SIZE", right=True, rank=3),
    Column("BASE", rank=5),
    Column("CREATED (UTC)", rank=4),
    Column("SERVED"),
)
_LABEL_WIDTH = 17
_BEST, _OTHER = " *", "  "


@dataclass(frozen=True)
class Row:
    """A row of the list; None stands for an unknown value."""

    name: str
    version: int | None
    path: str
    unit: str | None = None
    architecture: str | None = None
    direction: str | None = None
    vocab_size: int | None = None
    parameters: int | None = None
    validation_loss: float | None = None
    bits_per_character: float | None = None
    size_bytes: int | None = None
    base: str | None = None  # NAME:VERSION that it was fine-tuned from
    created: int | None = None
    listed: bool | None = None  # whether `models.config` has an entry for the model; None if it cannot be read
    served: bool | None = None  # whether the entry's version policy selects this version
    labels: tuple[str, ...] = ()  # that point at this version
    problem: str | None = None  # why the version cannot be read

    def cells(self) -> list[str]:
        start = [visible(self.name), format_number(self.version, "d")]
        if self.problem is not None:
            return [*start, f"cannot be read: {visible(self.problem)}"]
        chosen = ", ".join(["yes", *self.labels]) if self.served else "not chosen"
        return [
            *start,
            self.unit or NOTHING,
            visible(self.architecture),
            format_number(self.parameters, ",d"),
            format_number(self.validation_loss, ".3f"),
            format_number(self.bits_per_character, ".3f"),
            file_size(self.size_bytes or 0),
            self.base or NOTHING,
            utc_time(self.created or 0),
            {None: "unknown", False: "not listed"}.get(self.listed, chosen),
        ]


@click.command("list", cls=Command)
@json_option
@models_dir_option()
def list_versions(models_dir: Path, as_json: bool) -> int:
    """Show every version in the repository, including damaged ones."""
    models = Repository(models_dir).models()
    try:
        entries, problem = read_entries(models_dir), None
    except (PublishError, OSError) as error:
        entries, problem = None, str(error)
    rows = [row for model in models for row in _rows(model, entries)]
    names = {model.name for model in models}
    for entry in entries or []:
        if entry.folder is not None and entry.folder not in names:
            # A model server waits for a version of it.
            reason = f"{signatures.MODELS_CONFIG} lists it, but it has no version"
            path = str(models_dir / entry.folder)
            rows.append(Row(entry.folder, None, path, listed=True, served=False, problem=reason))
    if as_json:
        print(to_json({"models_dir": str(models_dir), "problem": problem, "versions": [asdict(row) for row in rows]}))
        return 0
    if not rows:
        elsewhere = [] if models_dir == MODELS else ["--models-dir", str(models_dir)]
        command = shlex.join(["sostenuto", "train", "book.txt", *elsewhere])
        print(f"{models_dir} has no model yet; train one with:  {command}")
    else:
        print(*text_table(_COLUMNS, [row.cells() for row in rows], terminal_width()), sep="\n")
    if problem:
        print(f"served versions are unknown: {visible(problem)}")
    return 0


def _rows(model: Model, config_entries: list[ConfigEntry] | None) -> Iterator[Row]:
    entries = None if config_entries is None else [entry for entry in config_entries if entry.folder == model.name]
    numbers = [version.number for version in model.versions if version.has_saved_model()]
    served = set[int]().union(*(entry.policy.select(numbers) for entry in entries or ()))
    if model.problem:
        yield Row(model.name, None, str(model.path), problem=model.problem)
    for version in model.versions:
        labels = {label for entry in entries or () for label, n in entry.labels.items() if n == version.number}
        row = Row(model.name, version.number, str(version.path), size_bytes=version.num_bytes())
        if entries is not None:
            row = replace(row, listed=bool(entries), served=version.number in served, labels=tuple(sorted(labels)))
        yield replace(row, **_card_fields(version))


def _card_fields(version: Version) -> dict[str, Any]:
    try:
        card, _ = version.read()
    except RepositoryError as error:
        return {"problem": str(error).removeprefix(str(version.path)).lstrip("/: ")}
    if not version.has_saved_model():
        reason = "Permission denied" if (version.path / SAVED_MODEL).exists() else "No such file"
        return {"problem": f"{SAVED_MODEL}: {reason}"}
    of_card = {name: getattr(card, name) for name in ("unit", "direction", "vocab_size", "base", "created")}
    names = ("parameters", "validation_loss", "bits_per_character")
    return {**of_card, "architecture": architecture(card), **{name: reported(card, name) for name in names}}


@click.command(cls=Command)
@click.argument("reference", metavar="VERSION")
@json_option
@models_dir_option()
def show(models_dir: Path, reference: str, as_json: bool) -> int:
    """Show the card of a version: metrics, settings, samples.

    VERSION is NAME:VERSION, NAME for the newest version, or the directory of a version.
    """
    version = Repository(models_dir).find(reference)
    card, tokenizer = version.read()
    if as_json:
        print(card.model_dump_json(indent=1))
        return 0
    print(f"{version.label}  {visible(version.path)}, {file_size(version.num_bytes())}")
    _print_facts(card_facts.model_facts(card, len(tokenizer.tokens)))
    report = card.training
    if report is None:
        print("\nimported: its training is unknown")
        return 0
    try:
        epochs = epochs_text(report, read_history(version.path))
    except RepositoryError as error:
        epochs = f"{report.epochs:g}; {error}"
    print("\ntraining")
    _print_facts(card_facts.training_facts(card, report, epochs))
    _print_facts(card_facts.metric_facts(report))
    print("\nsettings")
    _print_facts(card_facts.setting_facts(report))
    for sample in report.samples:
        print(f"\nsample at temperature {sample.temperature:g}")
        print(wrap_sample(sample_text(sample, card.direction)))
    return 0


def _print_facts(facts: Facts) -> None:
    for label, text in facts:
        print(f"  {visible(label):<{_LABEL_WIDTH}} {visible(text)}")


@click.command(cls=Command)
@click.argument("references", nargs=-1, required=True, metavar="VERSION...")
@click.option("--plot", type=PATH, metavar="FILE.png", help="Plot the losses by epoch and by minutes.")
@json_option
@models_dir_option()
def compare(models_dir: Path, references: Sequence[str], plot: Path | None, as_json: bool) -> int:
    """Compare versions side by side, and plot their losses.

    VERSION is NAME:VERSION, NAME for the newest version, or the directory of a version.
    """
    versions = [Repository(models_dir).find(reference) for reference in references]
    if len({version.path.resolve() for version in versions}) < max(2, len(versions)):
        labels = ", ".join(version.label for version in versions)
        raise RepositoryError(f"at least two versions are needed, each named once; got {labels}")
    if plot is not None and plot.suffix.lower() != ".png":
        raise RepositoryError(f"plot must be a .png file, got {plot}")
    comparison = Comparison([Candidate.of(version) for version in versions])
    if as_json:
        print(to_json(_document(comparison)))
    else:
        legend = ["* best in its row"] if any(map(comparison.best, METRICS)) else []
        print(*_table(comparison), *legend, *map(visible, comparison.notes()), sep="\n")
    if plot is not None:
        for line in _plot(comparison, plot):
            print(line, file=sys.stderr if as_json else sys.stdout)
    return 0


def _table(comparison: Comparison) -> Iterator[str]:
    """Yield the lines of the table, one column per version; columns that do not fit continue below."""
    rows = list(_table_rows(comparison))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for part in _parts(widths[1:], terminal_width(), widths[0]):
        titles, *cells = ([row[0], *(row[1 + i] for i in part)] for row in rows)
        columns = [Column(titles[0]), *(Column(title, right=True) for title in titles[1:])]
        yield from text_table(columns, cells, None)
        yield ""


def _table_rows(comparison: Comparison) -> Iterator[list[str]]:
    candidates = comparison.candidates
    cards = [c.card for c in candidates]
    yield _table_row("", [c.label for c in candidates])
    yield _table_row("token unit", [card.unit for card in cards])
    yield _table_row("direction", [card.direction for card in cards])
    yield _table_row("architecture", [architecture(card) for card in cards])
    yield _table_row("best epoch", map(_best_epoch, candidates))
    for metric in METRICS:
        values = [format_number(metric.value(c), metric.form) for c in candidates]
        yield _table_row(metric.title, values, comparison.best(metric))
    for name, settings in comparison.settings().items():
        yield _table_row(name, map(setting_text, settings))


def _table_row(title: str, values: Iterable[Any], best: Iterable[int] = ()) -> list[str]:
    return [visible(title), *(visible(value) + (_BEST if i in best else _OTHER) for i, value in enumerate(values))]


def _parts(widths: Sequence[int], width: int | None, labels: int) -> Iterator[list[int]]:
    """Split columns into parts that fit next to the labels; a part has at least one column."""
    part, used = list[int](), labels
    for i, column_width in enumerate(widths):
        if part and width is not None and used + 2 + column_width > width:
            yield part
            part, used = [], labels
        part.append(i)
        used += 2 + column_width
    yield part


def _best_epoch(candidate: Candidate) -> str:
    if candidate.progress.epochs:
        return f"{candidate.progress.best_epoch} of {candidate.progress.epochs}"
    return format_number(candidate.reported("epochs"), "g")


def _document(comparison: Comparison) -> dict[str, Any]:
    models = [
        {
            "model": c.label,
            "unit": c.card.unit,
            "direction": c.card.direction,
            "architecture": architecture(c.card),
            "best_epoch": c.progress.best_epoch or c.reported("epochs"),
            "epochs": c.progress.epochs or None,
            **{metric.name: metric.value(c) for metric in METRICS},
            "corpus_sha256": c.reported("corpus_sha256"),
            "held_out_characters": c.reported("held_out_characters"),
            "settings": c.reported("settings") or {},
        }
        for c in comparison.candidates
    ]
    labels = [c.label for c in comparison.candidates]
    best = {metric.name: [labels[i] for i in sorted(comparison.best(metric))] for metric in METRICS}
    return {"models": models, "best": best, "notes": list(comparison.notes())}


def _plot(comparison: Comparison, path: Path) -> Iterator[str]:
    """Plot the losses in nats per token, and yield messages about the plot.

    If the versions' tokens differ, losses are in bits per character, if these are known of all versions; training
    losses are then converted by the validation split's characters per token.
    """
    plotted = [c for c in comparison.candidates if c.progress.epochs]
    if not plotted:
        raise RepositoryError(f"{path}: nothing to plot: no version has a history.json")
    for c in comparison.candidates:
        if not c.progress.epochs:
            yield f"not in the plot: {c.label}, its epochs are unknown"
    scales, unit = [c.bits_per_nat for c in plotted], "bits per character"
    if comparison.same_tokens or None in scales:
        scales = [1.0] * len(plotted)
        unit = "nats per token" if comparison.same_tokens else "nats per token, of different tokens"
    runs = [Run(c.label, c.progress, scale or 1.0) for c, scale in zip(plotted, scales, strict=True)]
    write_atomically(path, comparison_png(runs, unit))
    yield f"written {path}: losses in {unit}"


@click.command(cls=Command, short_help="Check that a version computes what its Keras model does.")
@click.argument("reference", metavar="[VERSION]", required=False)
@click.option("--all", "verify_all", is_flag=True, help="Verify every version in the repository.")
@models_dir_option()
def verify(models_dir: Path, reference: str | None, verify_all: bool) -> int:
    """Check that a version is complete and computes what its Keras model does.

    VERSION is NAME:VERSION, NAME for the newest version, or the directory of a version.
    """
    repository = Repository(models_dir)
    if (reference is None) != verify_all:
        raise click.UsageError("verify needs either VERSION or --all")
    models = repository.models() if reference is None else []
    problems = [f"{model.path}: {model.problem}" for model in models if model.problem]
    versions = [version for model in models for version in model.versions]
    versions = [repository.find(reference)] if reference is not None else versions
    if not versions and not problems:
        print(f"{repository.path} has no model yet: nothing to verify")
        return 0
    for problem in problems:
        echo(f"FAILED  {visible(problem)}")
    failed = _verify(versions)
    if len(versions) + len(problems) > 1:
        echo(f"{len(versions):,} versions: {len(versions) - len(failed):,} good, {len(failed):,} damaged")
        for label in failed:
            echo(f"damaged: {label}")
    return 1 if failed or problems else 0


def _verify(versions: Sequence[Version]) -> list[str]:
    import_tensorflow_quietly()
    from export.repository.verification import FAILED, Verification  # noqa: PLC0415 - it needs TensorFlow

    failed = []
    # A version takes seconds; for several, a progress bar shows how many are left.
    bar = tqdm(versions, disable=len(versions) < 2 or not sys.stderr.isatty(), leave=False, dynamic_ncols=True)
    with deferred_interrupts(), bar:
        for version in bar:
            bar.set_description_str(version.label)
            echo(version.label)
            verdicts = []
            for verdict, message in Verification(version).outcomes():
                echo(f"  {verdict:<11}  {visible(message)}")
                verdicts.append(verdict)
                raise_if_interrupted()
            if FAILED in verdicts:
                failed.append(version.label)
    return failed
