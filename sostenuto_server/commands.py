"""The server's commands of the program `sostenuto`: entry points of the group `sostenuto.commands`."""

import click
from click.exceptions import Exit

from export.cli import (  # noqa: F401 - entry points
    compare,
    import_,
    list_versions,
    promote,
    publish,
    remove,
    resume,
    rollback,
    show,
    tune,
    verify,
    vocabulary,
)
from service.cli import demo, doctor, keys, serve, state_key  # noqa: F401 - entry points
from sostenuto_server.training import train  # noqa: F401 - entry point


@click.command("model-server", add_help_option=False, context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def model_server(arguments: tuple[str, ...]) -> None:
    """Serve a model repository as TensorFlow Serving does."""
    from model_server.__main__ import main  # noqa: PLC0415 - slow to import

    raise Exit(main(arguments))
