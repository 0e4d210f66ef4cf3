"""A disk that is really full: commands leave existing files unchanged, and no draft beside them."""

import os
import shutil
import subprocess
import sys

import pytest

from service.generation.resume_tokens import read_state_keys
from tests.paths import ROOT
from tests.unit.export.repository.stored import store


@pytest.fixture
def small_disk(tmp_path):
    """A tmpfs of 256 KiB."""
    if os.geteuid() or shutil.which("mount") is None:
        pytest.skip("only root may mount a file system")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def fill(disk):
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            return ballast


def run(*arguments):
    """Run a command; return its exit code and its stderr."""
    done = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    return done.returncode, done.stderr


def test_a_state_key_is_written_atomically(small_disk):
    """A full disk has no partial key, and once there is space the same command writes it."""
    ballast, path = fill(small_disk), small_disk / "key"
    code, error = run("service", "state-key", str(path))
    assert code == 1
    assert error == f"error: [Errno 28] No space left on device: '{path}'\n"
    assert list(small_disk.iterdir()) == [ballast]
    ballast.unlink()
    assert run("service", "state-key", str(path))[0] == 0
    assert len(read_state_keys(path)) == 1


def test_a_promotion_is_atomic(small_disk):
    """The message names the file; the repository is unchanged and has no draft."""
    for version in (1, 2):
        store(small_disk, version=version)
    config = (small_disk / "models.config").read_bytes()
    ballast = fill(small_disk)
    before = sorted(small_disk.iterdir())
    code, error = run("export", "promote", "m:1", "--models-dir", str(small_disk))
    assert code == 1
    assert error == f"error: [Errno 28] No space left on device: '{small_disk / 'models.config'}'\n"
    # The lock is an empty file, which takes no space.
    assert sorted(set(small_disk.iterdir()) - {small_disk / ".models.config.lock"}) == [
        path for path in before if path.name != ".models.config.lock"
    ]
    assert (small_disk / "models.config").read_bytes() == config
    ballast.unlink()
    assert run("export", "promote", "m:1", "--models-dir", str(small_disk))[0] == 0
    assert (small_disk / "labels.json").exists()


def test_an_api_key_is_added_atomically(small_disk):
    path = small_disk / "keys.json"
    assert run("service", "keys", "add", "--tenant", "acme", "--file", str(path))[0] == 0
    content, ballast = path.read_bytes(), fill(small_disk)
    code, error = run("service", "keys", "add", "--tenant", "acme", "--file", str(path))
    assert code == 1
    assert error == f"error: {path}: No space left on device\n"
    assert path.read_bytes() == content
    assert sorted(small_disk.iterdir()) == sorted([ballast, path])
