"""The exporter as a child process of another program: its command, environment, progress file and error message."""

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

# Without the current directory, which has the user's files.
EXPORT = (sys.executable, "-P", "-m", "export")
# Of this project's packages, which a wheel has in a directory outside Python's path.
_PACKAGES = str(Path(__file__).parents[1])


def environment() -> dict[str, str]:
    """Return the environment of a Python process that imports this project's packages."""
    paths = filter(None, [_PACKAGES, os.environ.get("PYTHONPATH")])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def train_options(settings: Mapping[str, Any]) -> list[str]:
    """Return the options of `train` for settings by name, without those that are None."""
    options = []
    for name, value in settings.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            options.append(f"--{'' if value else 'no-'}{option}")
        elif value is not None:
            options += [f"--{option}={each}" for each in (value if isinstance(value, list | tuple) else [value])]
    return options


def last_error(output: str) -> str | None:
    """Return the exporter's error message: the last such line of its output."""
    found = [line for line in output.splitlines() if line.startswith("error: ")]
    return found[-1].removeprefix("error: ") if found else None


class ProgressLines:
    """The complete lines of a progress file, as it grows."""

    def __init__(self, path: Path) -> None:
        self._path, self._offset = path, 0

    def read(self) -> Iterator[dict[str, Any]]:
        """Yield the lines since the last call."""
        with contextlib.suppress(FileNotFoundError), self._path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._offset += len(line)
                # A killed process may have written half a line, which the next one continues.
                with contextlib.suppress(ValueError):
                    yield json.loads(line)
