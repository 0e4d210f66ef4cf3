"""Text that a model wrote, as a terminal can show it. Imports no TensorFlow."""

import shutil
import textwrap


def layout(sample: str) -> str:
    """Indent a sample and break its lines; a control character, which the terminal would obey, becomes a dot."""
    width = min(100, shutil.get_terminal_size().columns - 5)
    visible = ["".join(c if c.isprintable() else "·" for c in line.expandtabs(4)) for line in sample.splitlines()]
    return "\n".join(f"    {part}" for line in visible for part in textwrap.wrap(line, width) or [""])
