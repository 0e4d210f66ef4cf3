"""Models and results that tests share: made once, and cached in `build/tests` until the code that makes them changes.

Publishing a model takes some 5 s of a core, half of it for TensorFlow's tracing; running the lesson takes 60 s. Every
test process of every run reads the cache, and no test may change it.
"""

import contextlib
import fcntl
import hashlib
import inspect
import platform
import shutil
import time
from pathlib import Path

from tests.paths import ROOT

_BUILT = ROOT / "build" / "tests"
# Sources that the models depend on, beside the module of the function that makes them.
_SOURCES = ("contract", "export", "tests/conftest.py", "requirements.txt")
_OLD_S = 24 * 3600


def built(name: str, make, inputs: str = "", sources: tuple[str, ...] = _SOURCES) -> Path:
    """Return the directory that `make(directory)` has filled, now or in an earlier run of the same code.

    One process fills it under another name and renames it: a killed run leaves no partial directory.

    Args:
        name: Name of the directory.
        make: Fills a directory.
        inputs: Anything else that it depends on, beside the module of `make` and the sources.
        sources: Files and directories that it depends on, relative to the checkout.
    """
    home = _BUILT / _key(make, inputs, sources)
    if not home.exists():
        _remove_old()
    home.mkdir(parents=True, exist_ok=True)
    home.touch()
    directory, draft = home / name, home / f"{name}.draft"
    with (home / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not directory.exists():
            shutil.rmtree(draft, ignore_errors=True)
            make(draft)
            draft.rename(directory)
    return directory


def _key(make, inputs: str, sources: tuple[str, ...]) -> str:
    """Hash everything that the directory depends on: sources, the module of `make`, Python, the machine, `inputs`."""
    digest = hashlib.sha256(f"{platform.python_version()} {platform.machine()} {inputs}".encode())
    for source in (*sources, inspect.getfile(make)):
        path = ROOT / source
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in files:
            if file.is_file() and file.parent.name != "__pycache__":
                digest.update(f"\0{file.relative_to(ROOT)}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def _remove_old() -> None:
    """Remove caches of other code that are older than a day."""
    with contextlib.suppress(FileNotFoundError):
        for home in _BUILT.iterdir():
            if home.stat().st_mtime < time.time() - _OLD_S:
                shutil.rmtree(home, ignore_errors=True)
