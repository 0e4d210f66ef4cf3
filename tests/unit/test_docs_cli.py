"""The command-line reference of the site, which sphinx-click writes from the commands."""

import html
import re

import click
import pytest

from export.cli import program as exporter
from jobs.cli import trainer
from service import cli as service
from sostenuto._cli.program import program
from sostenuto_server.training import train
from tests.documents import html_pages


def commands_below(command, name):
    """Yield a command and its subcommands, those of other distributions excepted, with their full names."""
    yield name, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        names = command.commands or command.list_commands(context)
        for each in names:
            yield from commands_below(command.get_command(context, each), f"{name} {each}")


EXPORTER = {
    ("python -m export" if name == "tokenizer" else "sostenuto") + f" {name}": command
    for name, command in exporter.commands.items()
}
COMMANDS = dict(
    [
        *EXPORTER.items(),
        ("sostenuto train", train),
        ("sostenuto trainer", trainer),
        *commands_below(program, "sostenuto"),
        *(
            pair
            for name in ("serve", "demo", "doctor")
            for pair in commands_below(getattr(service, name), f"sostenuto {name}")
        ),
        *commands_below(service.keys, "sostenuto keys"),
        *(pair for pair in commands_below(service.program, "python -m service") if " keys" not in pair[0]),
    ]
)


@pytest.fixture(scope="module")
def page(site):
    (page,) = html_pages(site, 'id="cmdoption-')
    return page


@pytest.mark.parametrize("name", COMMANDS)
def test_the_page_has_every_command_with_all_its_options(page, name):
    options = {option for param in COMMANDS[name].params if isinstance(param, click.Option) for option in param.opts}
    prefix = "cmdoption-" + re.sub(r"\W+", "-", name)
    assert [option for option in options if f'id="{prefix}-{option.lstrip("-")}"' not in page] == []
    text = html.unescape(re.sub("<[^>]*>", "", page))
    assert f"{name} [OPTIONS]" in text
    # Also dashes and quotes.
    assert (COMMANDS[name].epilog or "").replace("\b\n", "").strip() in text
