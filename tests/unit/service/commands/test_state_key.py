"""`python -m service state-key`: the key file by which gateways sign resume tokens."""

import stat

from service.__main__ import main
from service.generation.resume_tokens import StateKeys
from tests.faults import fill_disk


def test_a_key_is_created_once_with_mode_0600(tmp_path, capsys):
    """The command is idempotent, so it can run before each start."""
    path = tmp_path / "key"
    assert main(["state-key", str(path)]) == 0
    (name,) = StateKeys.read(path).keys
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert main(["state-key", str(path)]) == 0
    assert list(StateKeys.read(path).keys) == [name]
    assert capsys.readouterr().out == f"{path}: created, key {name}\n{path}: exists, key {name}\n"


def test_an_unusable_path_is_a_one_line_error(tmp_path, capsys):
    """A file without a key would keep every gateway from starting; this command reports it earlier."""
    (tmp_path / "empty").touch()
    for path in (tmp_path / "no" / "folder", tmp_path / "empty"):
        assert main(["state-key", str(path)]) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert str(path) in error
        assert error.count("\n") == 1


def test_a_full_disk_leaves_no_empty_file(tmp_path, capsys, monkeypatch):
    """It would stop every later start; the error has path and reason, and the next attempt succeeds."""
    path = tmp_path / "key"
    with monkeypatch.context() as patch:
        fill_disk(patch)
        assert main(["state-key", str(path)]) == 1
    assert capsys.readouterr().err == f"error: [Errno 28] No space left on device: '{path}'\n"
    assert list(tmp_path.iterdir()) == []
    assert main(["state-key", str(path)]) == 0
