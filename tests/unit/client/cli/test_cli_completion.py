"""`ostinato completion`: scripts for shells, and what they ask."""

from __future__ import annotations

import pytest

from tests.unit.client.scripted_server import PATIENCE_S


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_says_where_it_goes(ostinato, monkeypatch, shell):
    """For the shell that is named, or else for one's own; zsh wants its own line first."""
    monkeypatch.setenv("SHELL", f"/usr/bin/{shell}")
    shown = ostinato("completion", shell)
    assert shown.exit_code == 0
    lines = shown.stdout.splitlines()
    assert (lines[0] == "#compdef ostinato") == (shell == "zsh")
    assert any(line.startswith("# Goes into ~/") for line in lines[:2])
    assert "_OSTINATO_COMPLETE" in shown.stdout
    assert ostinato("completion").stdout == shown.stdout


def test_an_unknown_shell_is_to_be_named(ostinato, monkeypatch):
    """There is no script for it."""
    monkeypatch.setenv("SHELL", "/bin/sh")
    shown = ostinato("completion")
    assert shown.exit_code == 2
    assert "bash, fish, zsh" in shown.stderr


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("ostinato ge", "plain,generate\n"),
        ("ostinato generate --max", "plain,--max-tokens\n"),
        ("ostinato score --base", "plain,--base-url\n"),
    ],
)
def test_a_shell_is_told_commands_and_options(process, words, found):
    """As the script of bash asks for them."""
    place = str(len(words.split()) - 1)
    running = process(_OSTINATO_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=place)
    output, error = running.communicate(timeout=PATIENCE_S)
    assert (output.decode(), error) == (found, b"")
