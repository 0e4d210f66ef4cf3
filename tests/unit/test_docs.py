"""The documentation is accurate: settings, links, the site, pictures and commands."""

import functools
import importlib.util
import json
import re
import shlex
import tomllib
from typing import Literal, get_args, get_origin

import click
import pytest

import sostenuto
from service.settings import Settings
from tests.documents import BLOCKS, COMMANDS, NOT_RUN, SHELL, TRIED, documents, html_pages, read, rows, spans
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
    field = Settings.model_fields[name]
    default = "unset" if field.default is None else f"`{field.default}`"
    assert [f"`SOSTENUTO_{name.upper()}`", default, bounds_of(field), field.description] in SETTINGS


def test_every_documented_setting_exists():
    assert {name for name, *_ in SETTINGS} == {f"`SOSTENUTO_{name.upper()}`" for name in Settings.model_fields}


def test_the_file_map_has_every_top_level_directory():
    tree = set(re.findall(r"^(\w+)/ +\S", read("CONTRIBUTING.md"), re.MULTILINE))
    tracked = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith((".", "__"))}
    assert tree == tracked - {"runs", "training", "build", "dist"}


MARKDOWN = [*ROOT.glob("*.md"), *ROOT.glob("*/*.md"), *(ROOT / "docs").glob("*/*.md")]


@pytest.mark.parametrize("page", MARKDOWN, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_the_site_documents_every_public_name_of_the_sdk(site):
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
    text = "\n".join(page.read_text(encoding="utf-8") for page in MARKDOWN)
    assert re.search(rf"!\[\S[^]]+\]\([^)]*{re.escape(path.name)}\)", text)


@pytest.mark.parametrize("page", TRIED)
def test_targets_modules_variables_and_options_on_a_page_exist(page):
    text = read(page)
    targets = set(re.findall(r"(?:^|`|=\S+ )make ([a-z][a-z-]+)", text, re.MULTILINE))
    assert targets <= set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))
    modules = re.findall(r" -m ([a-z_.]*[a-z_])", text)
    assert [name for name in modules if importlib.util.find_spec(name) is None] == []
    assert set(re.findall(r"\bSOSTENUTO_[A-Z0-9_]*[A-Z0-9]\b", text)) <= variables()
    # docker compose's, kubectl's, llama.cpp's, vLLM's, pip's, TensorFlow Serving's.
    others = {"--profile", "--previous", "--parallel", "--max-num-seqs", "--require-hashes", "--enable_batching"}
    found = {option for span in spans(page) for option in re.findall(r"(?<![\w-])--[a-z][\w-]*", span)}
    assert found <= options() | others


@functools.cache
def variables():
    """Return every environment variable of the programs."""
    sources = [ROOT / "docker-compose.yml", ROOT / ".env"]
    sources += [path for part in ("client/src", "jobs", "service") for path in (ROOT / part).rglob("*.py")]
    found = {name for path in sources for name in re.findall(r"SOSTENUTO_\w+", path.read_text())}
    return found | {f"SOSTENUTO_{name.upper()}" for name in Settings.model_fields}


@functools.cache
def options():
    """Return every option of the programs that the pages name."""
    from export.cli import program as exporter
    from model_server.flags import _parser as build_flags
    from service.cli import keys

    # Options generated from settings and flags are known only to the parsers; the others are literals in the sources.
    made = {option for action in build_flags()._actions for option in action.option_strings}
    context = click.Context(keys)
    commands = [*exporter.commands.values(), *(keys.get_command(context, name) for name in keys.list_commands(context))]
    parameters = [parameter for command in commands for parameter in command.params]
    made |= {option for parameter in parameters for option in [*parameter.opts, *parameter.secondary_opts]}
    sources = [path for part in ("benchmarks", "client/src", "jobs", "service") for path in (ROOT / part).rglob("*.py")]
    sources.append(ROOT / "tests/conftest.py")
    return made | {option for path in sources for option in re.findall(r'["/](--[a-z][\w-]*)', path.read_text())}


TEXTS = {command.text for command in COMMANDS if command.text.startswith(tuple(NOT_RUN))}


@pytest.mark.parametrize(
    "text", sorted({line for text in TEXTS for line in text.splitlines() if re.search(r"(?<!-m )\bsostenuto ", line)})
)
def test_commands_that_are_not_run_parse(text):
    """The options are the command's, and the settings of a training run are consistent."""
    from export.cli import program as exporter
    from export.config import DEFAULT_RECIPE, TrainConfig, load_config, recipe_path
    from model_server.flags import parse as parse_flags
    from service import cli as service
    from sostenuto._cli.program import program as client
    from sostenuto_server.training import train

    words = shlex.split(text, comments=True)
    name, *arguments = words[words.index("sostenuto") + 1 :]
    if name == "model-server":
        parse_flags(arguments)
        return
    commands = {**client.commands, **exporter.commands, "serve": service.serve, "demo": service.demo, "train": train}
    # Click keeps a command's help options of its first context, and other tests use `-h`.
    options = commands[name].make_context(name, arguments, help_option_names=["-h", "--help"]).params
    if name == "train":
        names = [field.alias or name for name, field in TrainConfig.model_fields.items()]
        settings = {name: options[name] for name in names if options[name] is not None}
        load_config(recipe_path(options["config"] or DEFAULT_RECIPE), settings)


# With `--no-index` they name a distribution; RDKit is a reader's choice.
INSTALLS = {text for command in COMMANDS if " install " in (text := f"{command.text} ") and "--no-index" not in text}
INSTALLS.remove("pip install rdkit ")


@pytest.mark.parametrize("text", sorted(INSTALLS))
def test_install_commands_name_existing_files_and_extras(text):
    *_, place = shlex.split(text)
    name, _, extra = place.rstrip("]").partition("[")
    name = {"sostenuto": "client", "sostenuto-server": "."}.get(name, name)
    assert (ROOT / name).exists()
    project = tomllib.loads((ROOT / name / "pyproject.toml").read_text()) if extra else {}
    assert not extra or extra in project["project"]["optional-dependencies"]


@pytest.mark.parametrize("page", TRIED)
def test_a_program_of_a_page_that_imports_from_the_clone_is_run_with_the_clone_on_its_path(page):
    """A reader runs it in a directory of their own."""
    programs = re.findall(
        r"```python\n# (\w+\.py)\n(?:(?!```).)*?^from benchmarks\b", read(page), re.MULTILINE | re.DOTALL
    )
    commands = {command.text for command in COMMANDS}
    assert {f"PYTHONPATH=../sostenuto python {program}" for program in programs} <= commands


def test_the_traffic_split_of_the_pages_parses(tmp_path):
    from contract.models_config import read_shares

    (shares,) = (block.text for block in BLOCKS if block.language == "toml")
    (tmp_path / "routing.toml").write_text(shares)
    assert read_shares(tmp_path / "routing.toml") == {"book": {"stable": 90, "canary": 10}}


def test_every_code_block_has_a_known_language():
    """A block in any other language would be skipped unnoticed; JSON blocks must parse."""
    assert {block.language for block in BLOCKS} <= {*SHELL, "python", "json", "toml", "text"}
    assert all(documents(block.text) for block in BLOCKS if block.language == "json")
