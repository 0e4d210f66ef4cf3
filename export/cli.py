"""The commands of the exporter: `python -m export COMMAND`, and those of `sostenuto` that train and manage models.

Imports neither TensorFlow nor NumPy until the settings are validated.
"""

from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click

from contract.card import Direction, load_assets
from contract.errors import ContractError
from contract.models_config import version_number
from contract.signatures import MODELS_CONFIG
from export.command import PATH, Command, GroupedOption, import_tensorflow_quietly, models_dir_option, option
from export.config import (
    FINE_TUNING_RECIPE,
    RECIPES,
    RECIPES_BY_MINUTES,
    RUNS,
    Group,
    TrainConfig,
    load_config,
    recipe_for,
    recipe_path,
    training_speed,
)
from export.repository.display import compare, list_versions, show, verify
from export.repository.promotion import promote, rollback
from export.repository.removal import finite, remove
from export.terminal import echo

_CONFIG = (
    "TOML file of settings, whose keys are the names of the options with underscores, or one of the recipes "
    f"{', '.join(RECIPES)}. Options override it."
)
_TRAIN_EXAMPLES = """\
\b
Examples:
  sostenuto train book.txt
  cat *.txt | sostenuto train - --name words --token-unit word --cell gru --max-minutes 20
  sostenuto train --config demo
  sostenuto train letters.txt --from book"""
_TUNE_EXAMPLES = """\
\b
Examples:
  sostenuto tune book.txt --minutes 60
  sostenuto tune book.txt --cell gru --minutes 20"""
_EXAMPLES = f"""\
{_TRAIN_EXAMPLES}
  sostenuto tune book.txt --minutes 60
  sostenuto import lesson.h5 --tokenizer tokenizer.json --name lesson
  sostenuto list
  sostenuto compare book words:2 --plot losses.png"""


@click.group(
    epilog=_EXAMPLES,
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
)
def program() -> None:
    """Train recurrent text generators, publish them as SavedModels, and manage published versions."""


def _setting_option(name: str, group: str | None = None) -> click.Option:
    """Return the option of a setting; its type gives the metavar or the choices, which pydantic checks again in TOML.

    Its value is None if it is not given, so that the recipe's applies.
    """
    field = TrainConfig.model_fields[name]
    extra: Any = field.json_schema_extra
    option, kind, default = f"--{(field.alias or name).replace('_', '-')}", None, field.default
    if field.annotation is bool:
        option, default = f"{option}/--no-{option[2:]}", "yes" if field.default else "no"
    elif get_origin(field.annotation) is Literal:
        kind = click.Choice(get_args(field.annotation))
    else:
        annotated = (field.annotation, *get_args(field.annotation))
        kind = next((number for number in (int, float) if number in annotated), None)
    description = field.description or ""
    is_repeated = tuple in map(get_origin, get_args(field.annotation))
    return GroupedOption(
        [option],
        type=kind,
        default=None,
        multiple=is_repeated,
        callback=(lambda _context, _param, values: values or None) if is_repeated else None,
        metavar=extra["metavar"],
        help=f"{description[:1].upper()}{description[1:]}.",
        group=group or extra["group"],
        shown_default=extra["shown_default"] or str(default),
    )


def _setting_options() -> list[click.Parameter]:
    """Return the options of all settings but the corpus, which is an argument, in the order of their groups."""
    fields: dict[str, Any] = TrainConfig.model_fields
    by_group = sorted(fields, key=lambda name: list(Group).index(fields[name].json_schema_extra["group"]))
    return [_setting_option(name) for name in by_group if name != "corpus"]


def _one_corpus(_context: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> str | None:
    if len(values) > 1:
        raise click.BadParameter(
            f"must be one file or directory, got {len(values)}: pass their directory, or join them with: "
            "cat FILES | sostenuto train - --name NAME",
            param_hint="CORPUS",
        )
    return values[0] if values else None


# A string, as it may also name a built-in corpus; shells complete it as a path.
_corpus_argument = click.argument(
    "corpus", type=click.Path(readable=False), nargs=-1, callback=_one_corpus, metavar="[CORPUS]"
)
_run_argument = click.argument("run", type=PATH)


def _in_a_directory(_context: click.Context, _param: click.Parameter, file: Path | None) -> Path | None:
    if file is not None and not file.parent.is_dir():
        raise click.BadParameter(f"{file.parent} is not a directory.")
    return file


_progress_option = option(
    "--progress-file",
    type=PATH,
    callback=_in_a_directory,
    group=Group.OUTPUT,
    metavar="FILE",
    help="Append losses, samples and the time left to this file, as JSON Lines.",
)


def _given(**settings: Any) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}


@program.command(
    cls=Command, epilog=_TRAIN_EXAMPLES, params=_setting_options(), short_help="Train a generator and publish it."
)
@_corpus_argument
@option(
    "--config",
    shown_default=f"{', '.join(RECIPES_BY_MINUTES)} by --max-minutes; with --from {FINE_TUNING_RECIPE}",
    metavar="RECIPE",
    help=_CONFIG,
)
@option("--if-empty", is_flag=True, group=Group.OUTPUT, help="Do nothing if the repository has a model.")
@option("--if-new", is_flag=True, group=Group.OUTPUT, help="Do nothing if the repository has a model of this name.")
@option("--runs-dir", type=PATH, default=RUNS, group=Group.OUTPUT, metavar="DIR", help="Directory of the runs.")
@_progress_option
@option(
    "--evaluations",
    type=click.IntRange(min=1),
    default=1,
    group=Group.OUTPUT,
    help="For --progress-file: evaluate at this many points of the run, evenly spaced, beside the end of each epoch.",
)
@option("--publish/--no-publish", default=True, group=Group.OUTPUT, help="Publish the best epoch at the end.")
@models_dir_option(Group.OUTPUT)
def train(
    config: str | None,
    if_empty: bool,
    if_new: bool,
    runs_dir: Path,
    progress_file: Path | None,
    evaluations: int,
    publish: bool,
    models_dir: Path,
    **settings: Any,
) -> int:
    """Train a generator on CORPUS and publish it, by default in three minutes.

    CORPUS is a text file, a directory of text files, - for standard input, or a corpus by its name: shakespeare,
    state-of-the-union or pydoc-topics; without it, that of the recipe. The model is named after it.

    With --from it fine-tunes a published model. The result is a version of a new model, or of the base if --name is its
    name.

    The recipe sets all other settings. The defaults below apply to those that neither it nor an option sets.
    """
    given = _given(**settings)
    default = FINE_TUNING_RECIPE if "from" in given else recipe_for(given.get("max_minutes") or 0, given.get("corpus"))
    path = recipe_path(config) if config else RECIPES[default]
    train_config = load_config(path, given)
    pattern = "*" if if_empty else train_config.name
    if (if_empty or if_new) and (version_dir := _first_readable_version(models_dir, pattern)):
        print(f"{version_dir} exists already: nothing to train")
        # A model that was deliberately removed from the file is not listed again; the exporter of a job may have been
        # killed before listing its version, also that of a model with labels.
        if train_config.job is not None or not (models_dir / MODELS_CONFIG).exists():
            _add_to_models_config(models_dir, version_dir.parent.name)
        return 0
    base = None
    if train_config.base is not None:
        from export.training.base_version import BaseVersion  # noqa: PLC0415 - NumPy

        base = BaseVersion.find(train_config.base, models_dir)
        train_config = base.complete(train_config)
    output = {"progress_file": progress_file, "evaluations": evaluations, "publishes": publish}
    workflow = _workflow(start=False)
    if path in RECIPES.values():
        minutes, is_slow = train_config.max_minutes, train_config.base is None and training_speed() < 1
        length = f" for {minutes:g} minute{'s' if minutes != 1 else ''}" if minutes else ""
        if minutes and train_config.epochs:
            length += f" or {train_config.epochs} epochs"
        where = " on a CPU without AMX" if minutes and is_slow else ""
        rates = f"dropout {train_config.dropout:g}, learning rate {train_config.learning_rate:g}"
        other = "; another one: --config" if config is None else ""
        echo(f"recipe {path.stem}{length}{where}: {train_config.units} units, {rates}{other}")
    return workflow.train(train_config, models_dir, runs_dir, base, **output)


# Settings without use in a search: a trial has its share of the search's minutes, and is no job.
_NOT_TUNED = {"max_minutes", "tensorboard", "job"}


@program.command(
    cls=Command,
    params=[param for param in _setting_options() if param.name not in _NOT_TUNED],
    epilog=_TUNE_EXAMPLES,
    short_help="Search for better settings, and publish the best run.",
)
@_corpus_argument
@option(
    "--minutes",
    type=click.FloatRange(min=0, min_open=True),
    callback=finite,
    default=60.0,
    help="Minutes of the whole search.",
)
@option(
    "--config",
    shown_default=f"by the minutes of a trial; with --from {FINE_TUNING_RECIPE}",
    metavar="RECIPE",
    help=_CONFIG,
)
@option("--runs-dir", type=PATH, default=RUNS, group=Group.OUTPUT, metavar="DIR", help="Directory of the runs.")
@models_dir_option(Group.OUTPUT)
def tune(minutes: float, config: str | None, runs_dir: Path, models_dir: Path, **settings: Any) -> int:
    """Train on CORPUS with several settings, stop the worse runs early, and publish the best one.

    The first trial has the settings of a recipe; the others vary them, sampled by --seed. Given settings are not
    searched. It needs Optuna: pip install 'sostenuto-server[tune]'.
    """
    from export.tuning import search  # noqa: PLC0415 - nothing else needs it

    return search.tune(_given(**settings), config, minutes, runs_dir, models_dir)


@program.command(cls=Command)
@_run_argument
@_progress_option
@models_dir_option()
def resume(run: Path, progress_file: Path | None, models_dir: Path) -> int:
    """Resume a stopped training run, and publish it. RUN is its directory, such as runs/demo."""
    return _workflow(start=False).resume(run, models_dir, progress_file)


@program.command(cls=Command)
@_run_argument
@models_dir_option()
def publish(run: Path, models_dir: Path) -> int:
    """Publish the best epoch of a stopped training run. RUN is its directory, such as runs/demo."""
    return _workflow().publish_best(run, models_dir)


@program.command("import", cls=Command, short_help="Publish an imported Keras or TensorFlow model.")
@click.argument("model", type=PATH)
@option(
    "--tokenizer",
    type=PATH,
    shown_default="the layer in MODEL",
    metavar="FILE",
    help="Vocabulary of a TextVectorization or StringLookup layer (.txt, .json, or a .keras file with the layer), JSON "
    "of Keras's tokenizer.to_json(), or a tokenizer.json of Hugging Face's tokenizers.",
)
@option("--name", shown_default="that of the file", metavar="NAME", help="Name of the model in the repository.")
@option(
    "--context-length",
    type=click.IntRange(min=1),
    shown_default="the input's length",
    help="Serve it as a sliding-window model of this many tokens; required if it cannot carry state and its input has "
    "no fixed length.",
)
@click.option(
    "--direction",
    type=click.Choice(get_args(Direction)),
    default="forward",
    help="Backward: it was trained to generate right to left.",
)
@models_dir_option()
def import_(**options: Any) -> int:
    """Publish an imported model: a .keras or .h5 file, or the directory of a SavedModel.

    The model maps token ids to logits or probabilities, of every token or only the last one. A model of Embedding,
    SimpleRNN, LSTM, GRU and Dense layers carries its state from token to token. Any other model is served as a
    sliding-window model, padded on the left.
    """
    import_tensorflow_quietly()
    from export.import_command import import_model  # noqa: PLC0415 - it needs TensorFlow

    return import_model(**options)


# Settings that affect the vocabulary.
_TOKENIZER_SETTINGS = ("documents", "token_unit", "token_regex", "num_words", "vocab_size", "validation", "seed")


@program.command(
    cls=Command,
    params=[_setting_option(name, "options") for name in _TOKENIZER_SETTINGS],
    short_help="Show how a corpus is tokenized; train no model.",
)
@_corpus_argument
@click.option("--config", metavar="RECIPE", help=_CONFIG)
@option(
    "--text",
    "source",
    shown_default="the validation split, or the validation corpus of a file of settings",
    metavar="PATH",
    help="Text to encode: file, directory, or - for standard input.",
)
@click.option("--show", "num_shown", type=click.IntRange(min=0), default=20, help="Tokens of the vocabulary to print.")
@click.option("--save", type=PATH, metavar="FILE", help="Write the tokenizer to this file.")
def vocabulary(config: str | None, source: str | None, num_shown: int, save: Path | None, **settings: Any) -> int:
    """Show how a training run tokenizes CORPUS. CORPUS is as for train; without it, that of the recipe."""
    from export.vocabulary import run  # noqa: PLC0415 - NumPy

    path = None if config is None else recipe_path(config)
    return run(path, source, save, num_shown, **_given(**settings))


for _command in (list_versions, show, verify, remove, promote, rollback, compare):
    program.add_command(_command)


def _workflow(*, start: bool = True) -> Any:
    import_tensorflow_quietly(start=start)
    from export.training import workflow  # noqa: PLC0415

    return workflow


def _add_to_models_config(models_dir: Path, name: str) -> None:
    """List a model that was copied here, or whose exporter was killed, so that model servers load it."""
    # The protobuf messages need TensorFlow.
    import_tensorflow_quietly(start=False)
    from export.repository.models_config import add_to_models_config  # noqa: PLC0415

    add_to_models_config(models_dir, name)
    print(f"{name} is listed in {models_dir / MODELS_CONFIG} now")


def _first_readable_version(models_dir: Path, model: str) -> Path | None:
    """Return the first readable version of the models, a glob pattern; print why others were skipped."""
    for path in sorted(models_dir.glob(f"{model}/*/saved_model.pb")):
        if version_number(path.parent.name) is not None:
            try:
                load_assets(path.parent)
                return path.parent
            except ContractError as error:
                print(f"skipped: {error}")
    return None
