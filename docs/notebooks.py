"""Reads notebooks as pages of the site: their text, their code and the outputs stored in them. Nothing is run.

It knows the outputs that the lesson has: printed or returned text, Markdown, and PNG pictures. Any other output is an
error, so that the page omits nothing. Of a cell's metadata, `alt` is the alternative text of its picture, and `folded`
the title of the fold that hides the cell.
"""

import json
import re
from typing import Any

from docutils import nodes
from myst_parser.parsers.sphinx_ import MystParser
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError


def _fenced(text: str, language: str, *options: str) -> str:
    """Return a block of code, fenced by more backticks than any that it contains."""
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", text)), 3)
    return "\n".join([f"{fence}{{code-block}} {language}", *options, "", text.rstrip("\n"), fence])


def _output(output: dict[str, Any], metadata: dict[str, Any]) -> str:
    """Return one output of a cell as Markdown."""
    data = output.get("data", {})
    if "image/png" in data:
        if "alt" not in metadata:
            raise ExtensionError(f"a cell with a picture has no `alt` in its metadata: {data['text/plain']}")
        return f"![{metadata['alt']}](data:image/png;base64,{''.join(data['image/png']).replace(chr(10), '')})"
    if output["output_type"] == "stream":
        return _fenced("".join(output["text"]), "text", ":class: output")
    if "text/markdown" in data:
        return "".join(data["text/markdown"])
    if set(data) == {"text/plain"}:
        return _fenced("".join(data["text/plain"]), "text", ":class: output")
    raise ExtensionError(f"no way is known to show an output of {sorted(data) or output['output_type']}")


def markdown_of(notebook: str) -> str:
    """Return a notebook, given as its file's text, as Markdown for MyST."""
    parts = []
    for cell in json.loads(notebook)["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        shown = [_fenced(source, "python"), *(_output(output, cell["metadata"]) for output in cell["outputs"])]
        title = cell["metadata"].get("folded")
        parts += [f"<details><summary>{title}</summary>", *shown, "</details>"] if title else shown
    return "\n\n".join(parts) + "\n"


class NotebookParser(MystParser):
    """MyST's parser, for notebooks."""

    supported = ("notebook",)

    def parse(self, inputstring: str, document: nodes.document) -> None:
        """Fill a document with what is in a notebook."""
        super().parse(markdown_of(inputstring), document)


def setup(app: Sphinx) -> dict[str, Any]:
    """Read files that end with .ipynb as notebooks."""
    app.add_source_suffix(".ipynb", "notebook")
    app.add_source_parser(NotebookParser)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
