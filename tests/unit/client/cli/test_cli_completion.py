"""`sostenuto completion`: scripts for shells, and the candidates that they request."""

import pytest

from tests.unit.client.scripted_server import PATIENCE_S


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_script_says_where_to_install_it(sostenuto, monkeypatch, shell):
    monkeypatch.setenv("SHELL", f"/usr/bin/{shell}")
    shown = sostenuto("completion", shell)
    assert shown.exit_code == 0
    lines = shown.stdout.splitlines()
    assert (lines[0] == "#compdef sostenuto") == (shell == "zsh")
    assert any(line.startswith("# Save as ~/") for line in lines[:2])
    assert "_SOSTENUTO_COMPLETE" in shown.stdout
    assert sostenuto("completion").stdout == shown.stdout


def test_an_unsupported_shell_is_wrong_usage(sostenuto, monkeypatch):
    monkeypatch.setenv("SHELL", "/bin/sh")
    shown = sostenuto("completion")
    assert shown.exit_code == 2
    assert "bash, fish, zsh" in shown.stderr


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("sostenuto ge", "plain,generate\n"),
        ("sostenuto generate --max", "plain,--max-tokens\n"),
        ("sostenuto score --base", "plain,--base-url\n"),
    ],
)
def test_commands_and_options_are_completed(process, words, found):
    place = str(len(words.split()) - 1)
    running = process(_SOSTENUTO_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=place)
    output, error = running.communicate(timeout=PATIENCE_S)
    assert (output.decode(), error) == (found, b"")
