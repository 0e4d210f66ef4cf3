"""The documentation is accurate: settings, links, the site, pictures and commands."""

import json
import os
import re
import subprocess
import sys
from typing import Literal, get_args, get_origin

import pytest

import sostenuto
from service.settings import Settings
from tests.built import built
from tests.documents import read, rows
from tests.paths import ROOT

SETTINGS = rows("setting", "default")


def bounds_of(field):
    """Return a setting's limits, or its allowed values, in the notation of the page."""
    if get_origin(field.annotation) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(field.annotation))
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    found = [(sign, getattr(item, name, None)) for item in field.metadata for name, sign in signs.items()]
    return ", ".join(f"{sign} {value:,}" for sign, value in found if value is not None)


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_documented_with_default_and_limits(name):
    """With the field's own description."""
    field = Settings.model_fields[name]
    default = "unset" if field.default is None else f"`{field.default}`"
    assert [f"`SOSTENUTO_{name.upper()}`", default, bounds_of(field), field.description] in SETTINGS


def test_every_documented_setting_exists():
    assert {name for name, *_ in SETTINGS} == {f"`SOSTENUTO_{name.upper()}`" for name in Settings.model_fields}


def test_the_file_map_has_every_top_level_directory():
    """And no others."""
    tree = set(re.findall(r"^(\w+)/ +\S", read("CONTRIBUTING.md"), re.MULTILINE))
    tracked = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith((".", "__"))}
    assert tree == tracked - {"runs", "build", "dist"}


MARKDOWN = [*ROOT.glob("*.md"), *ROOT.glob("*/*.md"), *(ROOT / "docs").glob("*/*.md")]


@pytest.mark.parametrize("page", MARKDOWN, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def make_site(folder):
    """Build the site with Sphinx, with warnings as errors: no orphaned page, no broken link."""
    folder.mkdir()
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-d", str(folder / "trees"), "-b", "html"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "client/src")}
    made = subprocess.run(
        [*command, "docs", str(folder / "site")],
        check=False,
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert (made.returncode, made.stderr) == (0, "")


@pytest.fixture(scope="module")
def site():
    """The directory of the site, which is kept until a page, the SDK or the gateway changes."""
    return built("site", make_site, sources=("docs", "client/src", "service", "requirements/dev.txt")) / "site"


def html_pages(site, part):
    """Return the HTML of the site's pages that have `part`."""
    pages = [path.read_text(encoding="utf-8") for path in site.rglob("*.html")]
    return [page for page in pages if part in page]


def test_the_site_documents_every_public_name_of_the_sdk(site):
    """`__all__` is the list."""
    (page,) = html_pages(site, 'id="sostenuto.')
    documented = set(re.findall(r'id="sostenuto\.(\w+)"', page))
    assert documented == set(sostenuto.__all__) - {"__version__"}


def test_no_property_of_the_sdk_has_its_description_as_its_type(site):
    """Napoleon takes what precedes a colon in the first line of a property's docstring for its type."""
    assert html_pages(site, '">Type<') == []


def test_the_lesson_page_has_every_cell_and_output_of_the_notebook(site):
    """Each picture has an alternative text; links are links, and folded cells can be unfolded."""
    cells = json.loads((ROOT / "docs/lesson.ipynb").read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    outputs = [output for cell in code for output in cell["outputs"]]
    pictures = ["image/png" in output.get("data", {}) for output in outputs]
    links = ["text/markdown" in output.get("data", {}) for output in outputs]
    page = (site / "lesson.html").read_text(encoding="utf-8")
    assert page.count('class="highlight-python') == len(code)
    assert page.count('class="output highlight-text') == len(outputs) - sum(pictures) - sum(links)
    assert len(re.findall(r'href="http://127\.0\.0\.1:\d+/inspector#', page)) == sum(links) > 0
    folds = [cell["metadata"]["folded"] for cell in cells if "folded" in cell["metadata"]]
    assert re.findall("<summary>(.*)</summary>", page) == folds
    alternatives = re.findall(r'<img alt="([^"]*)" src="data:image/png;base64,', page)
    assert len(alternatives) == sum(pictures)
    assert all(alternatives)


@pytest.mark.parametrize("path", sorted((ROOT / "docs/images").iterdir()), ids=lambda path: path.name)
def test_every_picture_is_on_a_page_with_an_alternative_text(path):
    """In plain Markdown, which a code host shows, too."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in MARKDOWN)
    assert re.search(rf"!\[\S[^]]+\]\([^)]*{re.escape(path.name)}\)", text)
