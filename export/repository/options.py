"""Options that several commands share."""

from collections.abc import Callable
from typing import Any

import click

from export.command import PATH, GroupedOption
from export.config import MODELS

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON and nothing else.")


def models_dir_option(group: str = "options") -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that adds the option of the model repository, in a group of the help."""
    return click.option(
        "--models-dir",
        type=PATH,
        default=MODELS,
        metavar="DIR",
        help="Model repository.",
        cls=GroupedOption,
        group=group,
    )
