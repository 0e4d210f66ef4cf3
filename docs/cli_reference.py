"""Writes docs/cli.md from the parsers of the command-line programs: `python -m docs.cli_reference`.

Knows argparse's and click's parsers. Does not know any command: what the page says is what `--help` says.
"""

import argparse
import inspect
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from export.cli import program as export_program
from service.__main__ import _parser as service_parser
from service.batch.__main__ import _parser as batch_parser
from sostenuto._cli.program import program

PAGE = Path(__file__).with_name("cli.md")

_HEAD = """\
<!-- Written by `python -m docs.cli_reference` from the parsers. Change the help texts, not this page. -->

# Command-line reference

Every command and option, as `--help` shows them. The guides show the commands at work: [train](how-to/train.md),
[import a model](how-to/elsewhere.md), [versions](how-to/versions.md), [API keys](how-to/keys.md),
[batch files](batch.md) and [`sostenuto`](command-line.md).

| program | what it does |
|---|---|
| [`python -m export`](#python--m-export) | trains and imports models, and manages the model repository |
| [`python -m service`](#python--m-service) | runs the gateway |
| [`python -m service.batch`](#python--m-servicebatch) | sends a file of requests to a gateway |
| [`sostenuto`](#sostenuto) | the client's program |

The first three run in the checkout with `.venv/bin/python`. `sostenuto` comes with `pip install './client[cli]'`.
"""
_SETTINGS = "Settings are environment variables: [Settings of the gateway](settings.md)."
# Within a word, an underscore is one.
_SPECIAL = re.compile(r"[<*`]|(?<!\w)_|_(?!\w)")
_BATCH_PROGRAM = "python -m service.batch"


def render() -> str:
    """Return the page."""
    service, batch = service_parser(), batch_parser()
    parts = [
        _HEAD,
        *_click_program(_context(export_program, "python -m export")),
        # Its epilog is the list of settings.
        *_argparse_program(service, epilog=_SETTINGS),
        *_argparse_program(batch),
        *_click_program(_context(program, "sostenuto")),
    ]
    return "\n".join(filter(None, parts))


def _argparse_program(parser: argparse.ArgumentParser, epilog: str | None = None) -> Iterator[str]:
    yield f"## `{parser.prog}`\n"
    yield from _argparse_body(parser, epilog)
    yield from _argparse_commands(parser)


def _argparse_commands(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Return the sections of a parser's commands."""
    for commands in _subcommands(parser):
        for name, help_text in _listed(commands):
            command = commands.choices[name]
            if command.add_help:  # the one without, `batch`, is a program of its own
                yield f"### `{command.prog}`\n"
                if not command.description:
                    yield _paragraphs(_sentence(help_text))
                yield from _argparse_body(command, None if command.epilog != parser.epilog else "")
                yield from _argparse_commands(command)


def _argparse_body(parser: argparse.ArgumentParser, epilog: str | None) -> Iterator[str]:
    """Return a parser's description, commands, arguments and options; `epilog` replaces its own, "" by none."""
    if parser.description:
        yield _paragraphs(_sentence(parser.description))
    for commands in _subcommands(parser):
        rows = [
            (f"[`{name}`](#{_anchor(_BATCH_PROGRAM if name == 'batch' else commands.choices[name].prog)})", text)
            for name, text in _listed(commands)
        ]
        yield _table("command", rows)
    for group in parser._action_groups:
        rows = [
            (f"`{_invocation(action)}`", _help(parser, action))
            for action in group._group_actions
            if not isinstance(action, argparse._HelpAction | argparse._SubParsersAction)
        ]
        if rows and group.title not in ("options", "positional arguments"):
            yield f"**{_escaped(str(group.title))}**\n"
        if rows and group.description:
            yield _paragraphs(group.description)
        yield _table("argument" if group.title == "positional arguments" else "option", rows)
    if epilog is not None:
        yield f"{epilog}\n" if epilog else ""
    elif parser.epilog:
        is_raw = issubclass(parser.formatter_class, argparse.RawDescriptionHelpFormatter)
        yield (_literal if is_raw else _paragraphs)(parser.epilog)


def _subcommands(parser: argparse.ArgumentParser) -> list[argparse._SubParsersAction]:
    return [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]


def _listed(commands: argparse._SubParsersAction) -> list[tuple[str, str]]:
    return [(action.dest, action.help or "") for action in commands._choices_actions]


def _invocation(action: argparse.Action) -> str:
    """Return an option with its value, or the name of an argument."""
    formatter = argparse.HelpFormatter("")
    names = action.option_strings
    default = action.dest.upper() if names else action.dest
    value = "" if action.nargs == 0 else formatter._format_args(action, default)
    return " ".join(filter(None, [", ".join(names), value]))


def _help(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    text = parser._get_formatter()._expand_help(action) if action.help else ""
    is_told = not (action.required and action.option_strings) or "required" in text
    return text if is_told else f"{text} (required)".strip()


def _click_program(context: click.Context) -> Iterator[str]:
    assert isinstance(context.command, click.Group)
    yield f"## `{context.info_name}`\n"
    yield from _click_body(context)
    for name in context.command.list_commands(context):
        command = context.command.get_command(context, name)
        assert command is not None
        yield f"### `{context.info_name} {name}`\n"
        yield from _click_body(_context(command, name, context))


def _context(command: click.Command, name: str, parent: click.Context | None = None) -> click.Context:
    return click.Context(command, info_name=name, parent=parent, **command.context_settings)


def _click_body(context: click.Context) -> Iterator[str]:
    command = context.command
    yield _paragraphs(inspect.cleandoc(command.help or ""))
    if isinstance(command, click.Group):
        rows = [
            (f"[`{name}`](#{_anchor(f'{context.info_name} {name}')})", command.commands[name].get_short_help_str(200))
            for name in command.list_commands(context)
        ]
        yield _table("command", rows)
    arguments = [f"`{param.make_metavar(context)}`" for param in command.params if isinstance(param, click.Argument)]
    if arguments:
        yield f"Arguments: {', '.join(arguments)}\n"
    records = [
        param.get_help_record(context)
        for param in command.get_params(context)
        if isinstance(param, click.Option) and not {"--help", "--version"}.intersection(param.opts)
    ]
    yield _table("option", [(f"`{record[0]}`", record[1]) for record in records if record is not None])
    if command.epilog:
        yield _literal(command.epilog.replace("\b\n", ""))


def _table(heading: str, rows: Sequence[tuple[str, str]]) -> str:
    if not rows:
        return ""
    lines = [f"| {_cell(name)} | {_cell(_escaped(' '.join(text.split())))} |" for name, text in rows]
    return "\n".join([f"| {heading} | meaning |", "|---|---|", *lines, ""])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _literal(text: str) -> str:
    return f"```text\n{text.strip()}\n```\n"


def _paragraphs(text: str) -> str:
    return f"{_escaped(text.strip())}\n"


def _sentence(text: str) -> str:
    """Return a help text as a sentence: with a capital and a full stop."""
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", ":")) else ".")


def _escaped(text: str) -> str:
    """Escape what Markdown would read, but not in code."""
    parts = re.split(r"(`[^`]+`)", text)
    return "".join(part if number % 2 else _SPECIAL.sub(r"\\\g<0>", part) for number, part in enumerate(parts))


def _anchor(heading: str) -> str:
    """Return a heading's anchor, as MyST and repositories make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
    print(PAGE)
