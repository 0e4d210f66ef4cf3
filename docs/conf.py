"""How Sphinx makes these pages into a site: `make docs`, into build/docs."""

import re
import sys
import textwrap
from pathlib import Path

import click
from sphinx.application import Sphinx

import sostenuto

sys.path.insert(0, str(Path(__file__).parent))  # for notebooks.py

project = "Sostenuto"
author = "Sostenuto"
version = sostenuto.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_click",
    "sphinx_copybutton",
    "notebooks",
]
html_theme = "furo"
html_title = "Sostenuto"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = [("tables.js", {"defer": "defer"})]
html_show_copyright = False

myst_enable_extensions = ["colon_fence", "substitution"]
myst_substitutions = {"version": version}
myst_heading_anchors = 3  # links to headings work as they do in a repository's own view
suppress_warnings = ["myst.header"]  # a page may go from its title to any level
copybutton_selector = "div:not(.output) > div.highlight > pre"  # every code block, but no output of the lesson
highlight_language = "none"  # of blocks that name none: commands for a shell, and what they answer
default_role = "code"  # of single backticks in docstrings
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_use_rtype = False
napoleon_use_ivar = True
napoleon_attr_annotations = False  # the docstrings give the types
smartquotes_action = "qe"  # no dashes, which options begin with


def _literally(_app: Sphinx, context: click.Context, lines: list[str]) -> None:
    """Show the end of a command's help, which has examples, as it is."""
    text = (context.command.epilog or "").replace("\b\n", "").strip()
    lines[:] = ["::", "", *textwrap.indent(text, "   ").splitlines(), ""] if text else []


def _links_out_of_the_site(_app: Sphinx, _page: str, source: list[str]) -> None:
    """Link the page of the threat model, and the history as a file; on a code host both links lead to the files."""
    text = re.sub(r"\]\((?:\.\./)+SECURITY\.md", "](/security.md", source[0])
    source[0] = re.sub(r"\]\(((?:\.\./)+benchmarks/HISTORY\.md)[^)]*\)", r"](path:\1)", text)


def setup(app: Sphinx) -> None:
    """Connect the hooks."""
    app.connect("sphinx-click-process-epilog", _literally)
    app.connect("source-read", _links_out_of_the_site)
