"""How Sphinx makes these pages into a site: `make docs`, into build/docs."""

import ostinato

project = "Ostinato"
author = "Ostinato"
version = ostinato.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["lesson.ipynb"]
html_theme = "furo"
html_title = "Ostinato"

myst_enable_extensions = ["substitution"]
myst_substitutions = {"version": version}
myst_heading_anchors = 3  # links to headings work as they do in a repository's own view
suppress_warnings = ["myst.header"]  # a page may go from its title to any level
default_role = "code"  # of single backticks in docstrings
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_use_rtype = False
napoleon_use_ivar = True
