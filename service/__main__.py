"""`python -m service`: run the gateway, alone or with the embedded model server, and manage its keys."""

import argparse
import sys
from collections.abc import Sequence

from service.commands import keys as keys_command
from service.commands.up import Service, has_models
from service.settings import Settings, SettingsError, load_settings


def _parser() -> argparse.ArgumentParser:
    settings = "\n".join(
        f"  OSTINATO_{name.upper():<20} {field.description} (default: {_shown(field.default)})"
        for name, field in Settings.model_fields.items()
    )
    parser = argparse.ArgumentParser(
        "python -m service",
        description=__doc__,
        epilog=f"settings, from the environment or from the file that OSTINATO_ENV_FILE names:\n{settings}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("up", help="run the embedded model server and the gateway together")
    commands.add_parser("serve", help="run the gateway alone, in front of OSTINATO_BACKENDS")
    keys_command.add_parser(commands)
    return parser


def _shown(default: object) -> str:
    return "unset" if default is None else str(default)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        settings = load_settings()
    except SettingsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.command == "keys":
        return keys_command.run(options, settings.keys_file)
    if options.command == "up":
        if not has_models(settings.models_dir):
            print(
                f"error: there is no models.config in {settings.models_dir}; train a model first, for example with: "
                "python -m export train --config export/recipes/demo.toml",
                file=sys.stderr,
            )
            return 1
        return Service(settings).run()
    from service.commands.serve import serve  # noqa: PLC0415 - gunicorn and Flask, which `up` does not need

    return serve(settings)


if __name__ == "__main__":
    sys.exit(main())
