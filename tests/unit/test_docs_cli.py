"""docs/cli.md is what the parsers of the command-line programs give."""

import argparse

import click
import pytest

from docs import cli_reference
from export.cli import program as export_program
from service.__main__ import _parser as service_parser
from service.batch.__main__ import _parser as batch_parser
from sostenuto._cli.program import program


def options_of(parser):
    """Return every option of a parser and of its commands, with the command's name."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from options_of(command)
        elif not isinstance(action, argparse._HelpAction):
            yield from ((parser.prog, option) for option in action.option_strings)


CLICK = [
    (f"{prefix} {name}", option)
    for prefix, group in (("python -m export", export_program), ("sostenuto", program))
    for name, command in group.commands.items()
    for option in command.params
]
OPTIONS = [
    *(found for parser in (service_parser(), batch_parser()) for found in options_of(parser)),
    *((command, name) for command, option in CLICK if isinstance(option, click.Option) for name in option.opts),
]


def test_the_page_is_what_the_parsers_give():
    """`python -m docs.cli_reference` writes it anew."""
    assert cli_reference.PAGE.read_text(encoding="utf-8") == cli_reference.render()


@pytest.mark.parametrize("command", sorted({command for command, _ in OPTIONS}))
def test_every_option_is_in_the_section_of_its_command(command):
    """A row of its table begins with it."""
    _, _, rest = cli_reference.render().partition(f"# `{command}`\n")
    cells = [line.split("` |")[0] for line in rest.partition("\n##")[0].splitlines() if line.startswith("| `")]
    words = {word.strip(",") for cell in cells for word in cell.removeprefix("| `").split()}
    assert {option for name, option in OPTIONS if name == command} <= words
