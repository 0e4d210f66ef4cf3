"""`sostenuto train`: the exporter's command, which trains in this process, with an option to train on a server."""

from typing import Any

import click
from click.core import ParameterSource

from export.cli import train as train_here
from export.command import Command, option
from export.config import DEFAULT_RECIPE, Group, TrainConfig, load_config, recipe_path
from jobs.settings import ALLOWED, RECIPES
from sostenuto._cli.options import given_options, server_options
from sostenuto._cli.train import DETACH_HELP, SERVER_HELP, require_one_validation, train_on_server

EPILOG = f"{train_here.epilog}\n  sostenuto train book.txt --server http://127.0.0.1:8000"
# Options that are sent to the server outside `settings`.
_ARGUMENTS = {"corpus", "config", "from", "name", "validation_corpus", "server", "detach"}


@click.command(
    cls=Command, params=[*train_here.params], help=train_here.help, epilog=EPILOG, short_help=train_here.short_help
)
@option("--server", group=Group.OUTPUT, metavar="URL", help=SERVER_HELP)
@option("--detach", is_flag=True, group=Group.OUTPUT, help=DETACH_HELP)
@server_options
@click.pass_context
def train(context: click.Context, server: str | None, detach: bool, **options: Any) -> int:
    """Train here or there."""
    if server is None:
        if detach or "base_url" in given_options():
            raise click.UsageError(
                f"{'--detach' if detach else '--base-url'} is for training on a server: add --server"
            )
        return train_here.callback(**options)
    given = {name for name in options if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    for name in sorted(given - _ARGUMENTS - set(ALLOWED)):
        raise click.UsageError(f"--{name.replace('_', '-')} is for training in this process: omit it, or --server")
    require_one_validation("validation" in given, options["validation_corpus"])
    settings, recipe = {name: options[name] for name in given & set(ALLOWED)}, options["config"]
    validation = options["validation_corpus"]
    if "config" in given:
        if options["from"] is not None:
            raise click.UsageError(
                "--config and --from exclude each other with --server: the server has a recipe for it"
            )
        if recipe not in RECIPES:
            config, recipe = _read(recipe, options["corpus"], settings), DEFAULT_RECIPE
            # All of them, so that none of the recipe applies.
            settings = {name: getattr(config, name) for name in ALLOWED} | {"epochs": config.max_epochs}
            validation = validation or config.validation_corpus
    train_on_server(
        server,
        options["corpus"],
        recipe=recipe,
        base=options["from"],
        name=options["name"],
        validation=validation,
        settings=settings,
        detach=detach,
    )
    return 0


def _read(file: str, corpus: str | None, given: dict[str, Any]) -> TrainConfig:
    """Return the settings of a file and those given; raise UsageError if the file has one that a job cannot have."""
    config = load_config(recipe_path(file), {"corpus": corpus or "-", "name": "model", **given})
    for name in sorted(config.model_fields_set - _ARGUMENTS - set(ALLOWED)):
        setting = TrainConfig.model_fields[name].alias or name
        raise click.UsageError(f"{file}: {setting} is for training in this process: omit it, or --server")
    return config
