"""Terminal output: log lines above a progress bar, and the layout of samples. Imports no TensorFlow."""

import shutil
import sys
import textwrap

from tqdm import tqdm


def layout(sample: str) -> str:
    """Indent a sample and wrap its lines; control characters, which a terminal would interpret, become dots."""
    width = min(100, shutil.get_terminal_size().columns - 5)
    visible = ["".join(c if c.isprintable() else "·" for c in line.expandtabs(4)) for line in sample.splitlines()]
    return "\n".join(f"    {part}" for line in visible for part in textwrap.wrap(line, width) or [""])


def say(line: str) -> None:
    """Print a line and flush it, above a progress bar if there is one."""
    tqdm.write(line, file=sys.stdout)
    sys.stdout.flush()
