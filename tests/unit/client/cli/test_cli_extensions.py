"""Commands that other distributions add to the program by entry points."""

import sys

import pytest

from sostenuto._cli.program import GROUP, SERVER_COMMANDS, program
from tests.paths import ROOT

MODULE = """
import click

@click.command(short_help="Waltz with somebody.")
@click.argument("somebody")
@click.pass_context
def waltz(context, somebody):
    print(f"waltzing with {somebody}")
    context.exit(7)
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a distribution with entry points, as pip does; its modules are imported from the same directory."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(module="", **points):
        (tmp_path / "dances.py").write_text(module)
        information = tmp_path / "dances-1.dist-info"
        information.mkdir()
        (information / "METADATA").write_text("Metadata-Version: 2.1\nName: dances\nVersion: 1\n")
        lines = [f"{name} = {value}\n" for name, value in points.items()]
        (information / "entry_points.txt").write_text(f"[{GROUP}]\n{''.join(lines)}")
        return tmp_path

    yield write
    sys.modules.pop("dances", None)


@pytest.fixture
def without_server(monkeypatch):
    """An environment in which only the SDK is installed."""
    monkeypatch.setattr("sostenuto._cli.program.installed", dict)


def test_a_command_of_another_distribution_runs_with_its_own_exit_code(sostenuto, install):
    install(MODULE, waltz="dances:waltz")
    shown, wrong = sostenuto("waltz", "anybody"), sostenuto("waltz")
    assert (shown.exit_code, shown.stdout) == (7, "waltzing with anybody\n")
    assert (wrong.exit_code, wrong.stderr) == (2, "error: Missing argument 'SOMEBODY': see `sostenuto waltz --help`\n")


def test_help_lists_it_in_a_section(sostenuto, install):
    install(MODULE, waltz="dances:waltz", serve="dances:waltz")
    shown = sostenuto("--help").stdout
    assert "Serve:\n  serve " in shown
    further = shown.partition("Further commands:\n")[2].partition("\n\n")[0]
    rows = [line.split(maxsplit=1) for line in further.splitlines()]
    assert rows[0] == ["completion", "Print the shell completion script."]
    assert ["waltz", "Waltz with somebody."] in rows


def test_no_command_of_another_distribution_replaces_the_programs_own(sostenuto, install):
    install(MODULE, generate="dances:waltz")
    assert "PROMPT" in sostenuto("generate", "--help").stdout


def test_other_commands_are_imported_only_when_they_run(process, install):
    folder = install("raise SystemExit('imported')", waltz="dances:waltz")
    running = process("completion", "bash", PYTHONPATH=f"{folder}:{ROOT / 'client/src'}")
    _, error = running.communicate(timeout=120)
    assert (running.returncode, error) == (0, b"")


@pytest.mark.parametrize(
    ("module", "reason"), [("import nonsense_", "No module named 'nonsense_'"), ("waltz = 3", "is not a click command")]
)
def test_a_broken_command_is_one_line_and_breaks_no_other(sostenuto, install, module, reason):
    install(module, waltz="dances:waltz")
    shown = sostenuto("waltz", "anybody")
    assert shown.exit_code == 2
    assert shown.stderr.startswith("error: `sostenuto waltz` cannot be loaded: dances:waltz")
    assert reason in shown.stderr
    assert shown.stderr.count("\n") == 1
    help_text = sostenuto("--help")
    assert help_text.exit_code == 0
    assert "cannot be loaded" in help_text.stdout


@pytest.mark.usefixtures("without_server")
@pytest.mark.parametrize("name", SERVER_COMMANDS)
def test_without_the_server_its_commands_say_what_to_install(sostenuto, name):
    shown = sostenuto(name, "book.txt")
    assert (shown.exit_code, shown.stdout) == (2, "")
    assert shown.stderr == (
        f"error: `sostenuto {name}` is a command of the server; install the distribution sostenuto-server in the same "
        "environment\n"
    )


@pytest.mark.usefixtures("without_server")
def test_without_the_server_train_needs_the_url_of_one(sostenuto):
    shown = sostenuto("train", "book.txt")
    assert (shown.exit_code, shown.stdout) == (2, "")
    assert "install it in the same environment, or pass --server URL" in shown.stderr


@pytest.mark.usefixtures("without_server")
def test_without_the_server_the_help_names_its_commands_and_has_the_others_in_sections(sostenuto):
    shown = sostenuto("--help").stdout
    absent = f"Without the server there are no {', '.join(SERVER_COMMANDS)}; install the distribution"
    assert absent in " ".join(shown.split())
    assert all(f"\n  {name} " in shown for name in program.commands)
    assert shown.partition("Further commands:\n")[2].partition("\n\n")[0].split()[0] == "completion"
