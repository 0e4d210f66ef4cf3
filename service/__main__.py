"""`python -m service`: run the gateway, alone or with the embedded model server; check its health; manage its keys."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from service.commands import health, state_key
from service.commands import keys as keys_command
from service.commands.up import Service, has_models
from service.settings import Settings, SettingsError, load_settings


def _parser() -> argparse.ArgumentParser:
    settings = "\n".join(
        f"  SOSTENUTO_{name.upper():<20} {field.description} (default: {_shown(field.default)})"
        for name, field in Settings.model_fields.items()
    )
    parser = argparse.ArgumentParser(
        "python -m service",
        description=__doc__,
        epilog=f"settings, from the environment or from the file that SOSTENUTO_ENV_FILE names:\n{settings}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in (
        ("up", "run the embedded model server and the gateway together"),
        ("serve", "run the gateway alone, in front of SOSTENUTO_BACKENDS"),
        ("health", "check the readiness of the gateway on this machine: exit code 0 or 1"),
    ):
        commands.add_parser(name, help=text, description=f"{text}; `python -m service --help` lists the settings")
    text = "create a key file for SOSTENUTO_STATE_KEY_FILE, unless it exists"
    state_key_parser = commands.add_parser("state-key", help=text, description=text)
    state_key_parser.add_argument("file", type=Path, metavar="FILE", help="file to create")
    keys_command.add_parser(commands)
    commands.add_parser(
        "batch", help="send a file of requests to a gateway; see python -m service.batch --help", add_help=False
    )
    return parser


def _shown(default: object) -> str:
    return "unset" if default is None else str(default)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    return _batch(argv[1:]) if argv[:1] == ["batch"] else _run(argv)


def _run(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    try:
        settings = load_settings()
    except SettingsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    match options.command:
        case "up":
            return _up(settings)
        case "health":
            return health.check(settings)
        case "state-key":
            return state_key.make(options.file)
        case "keys":
            return keys_command.run(options, settings.keys_file)
    from service.commands.serve import serve  # noqa: PLC0415 - gunicorn and Flask, which other commands do not need

    return serve(settings)


def _batch(arguments: Sequence[str]) -> int:
    """Run the batch client, a separate program that needs no settings of the gateway."""
    from service.batch.__main__ import main as batch  # noqa: PLC0415 - requests and tqdm, which the gateway does not need

    return batch(arguments)


def _up(settings: Settings) -> int:
    if not has_models(settings.models_dir):
        print(
            f"error: there is no models.config in {settings.models_dir}; train a model first, for example with: "
            "sostenuto train --config demo",
            file=sys.stderr,
        )
        return 1
    return Service(settings).run()


if __name__ == "__main__":
    sys.exit(main())
