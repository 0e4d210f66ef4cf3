"""What the documents say is so."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest

import ostinato
from service.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def bounds_of(field):
    """Return a setting's bounds, or the values that it may have, as the page writes them."""
    if get_origin(field.annotation) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(field.annotation))
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    found = [(sign, getattr(item, name, None)) for item in field.metadata for name, sign in signs.items()]
    return ", ".join(f"{sign} {value:,}" for sign, value in found if value is not None)


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_documented_with_default_and_bounds(name):
    """The page has a line for each setting, and the line is true."""
    field = Settings.model_fields[name]
    default = "unset" if field.default is None else f"`{field.default}`"
    line = f"| `OSTINATO_{name.upper()}` | {default} | {bounds_of(field)} | {field.description} |"
    assert line in (ROOT / "docs/settings.md").read_text(encoding="utf-8")


def test_no_setting_is_documented_that_does_not_exist():
    """The page names nothing else."""
    text = (ROOT / "docs/settings.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| `OSTINATO_(\w+)`", text, re.MULTILINE))
    assert documented == {name.upper() for name in Settings.model_fields}


def test_the_readmes_tree_is_the_folders_there_are():
    """Every folder at the top stands in the README's tree, and nothing else does."""
    tree = set(re.findall(r"^(\w+)/ +\S", README, re.MULTILINE))
    tracked = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith((".", "__"))}
    assert tree == tracked - {"runs", "build", "dist"}


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))], ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    """Every relative link of a page is a file."""
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site, made without a warning: every page is reached, and every link found."""
    folder = tmp_path_factory.mktemp("docs")
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
    return folder / "site"


def test_the_site_has_the_whole_api(site):
    """Every public name of the SDK is documented."""
    page = (site / "api.html").read_text(encoding="utf-8")
    documented = set(re.findall(r'id="ostinato\.(\w+)"', page))
    assert documented == set(ostinato.__all__) - {"__version__"}


def test_the_site_has_the_whole_lesson(site):
    """Each cell's code and each output of the notebook is on its page, and each picture says what it shows."""
    cells = json.loads((ROOT / "docs/lesson.ipynb").read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    outputs = [output for cell in code for output in cell["outputs"]]
    pictures = ["image/png" in output.get("data", {}) for output in outputs]
    page = (site / "lesson.html").read_text(encoding="utf-8")
    assert page.count('class="highlight-python') == len(code)
    assert page.count('class="output highlight-text') == len(outputs) - sum(pictures)
    alternatives = re.findall(r'<img alt="([^"]*)" src="data:image/png;base64,', page)
    assert len(alternatives) == sum(pictures)
    assert all(alternatives)


def test_drawings_say_what_they_show(site):
    """Who cannot see a drawing is told its title and what is in it, by ids that the page has once."""
    page = (site / "how-it-works.html").read_text(encoding="utf-8")
    (labels,) = re.findall(r'<svg [^>]*role="img" aria-labelledby="([^"]+)"', page)
    assert [len(re.findall(f'<(?:title|desc) id="{name}">\\w', page)) for name in labels.split()] == [1, 1]


@pytest.mark.parametrize("picture", sorted(path.name for path in (ROOT / "docs/images").iterdir()))
def test_every_picture_is_shown_and_told(picture):
    """Each file of docs/images is in a page, a photograph with what it shows in words."""
    pages = [path.read_text(encoding="utf-8") for path in (ROOT / "docs").rglob("*.md")]
    directives = re.findall(r"```\{(?:image|raw)\} ?(\S+)\n(.*?)```", "\n".join(pages), re.DOTALL)
    shown = [options for target, options in directives if picture in target + options]
    assert shown
    assert picture.endswith(".svg") or all(":alt: " in options for options in shown)


def test_every_make_command_of_the_readme_exists():
    """Commands that the README names are targets of the Makefile."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"make ([a-z][a-z-]+)", README)) <= targets
