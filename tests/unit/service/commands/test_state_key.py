"""`python -m service state-key`: a file that gateways sign by."""

import stat

from service.__main__ import main
from service.generation.resume_tokens import StateKeys
from tests.faults import fill_disk


def test_a_key_is_made_once_and_for_its_owner_alone(tmp_path, capsys):
    """The second time nothing changes, so it can be repeated at each start."""
    path = tmp_path / "key"
    assert main(["state-key", str(path)]) == 0
    (name,) = StateKeys.read(path).keys
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert main(["state-key", str(path)]) == 0
    assert list(StateKeys.read(path).keys) == [name]
    assert capsys.readouterr().out == f"{path}: created, key {name}\n{path}: exists, key {name}\n"


def test_what_cannot_be_written_or_read_is_one_line(tmp_path, capsys):
    """A file that holds no key would stop every gateway; here it is told first."""
    (tmp_path / "empty").touch()
    for path in (tmp_path / "no" / "folder", tmp_path / "empty"):
        assert main(["state-key", str(path)]) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert str(path) in error
        assert error.count("\n") == 1


def test_a_full_disk_leaves_no_empty_file(tmp_path, capsys, monkeypatch):
    """An empty one would stop every later start; the message has the path and the reason, and the next try succeeds."""
    path = tmp_path / "key"
    with monkeypatch.context() as patch:
        fill_disk(patch)
        assert main(["state-key", str(path)]) == 1
    assert capsys.readouterr().err == f"error: [Errno 28] No space left on device: '{path}'\n"
    assert list(tmp_path.iterdir()) == []
    assert main(["state-key", str(path)]) == 0
