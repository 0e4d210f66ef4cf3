"""The models of the conformance suite: `python -m tests.serving.repository [DIR]`.

They are small and untrained, but published by the project's own exporter, so a server that passes with them can serve
those in use. They are copies of the models of the other tests.
"""

import argparse
import hashlib
import shlex
import shutil
import sys
from pathlib import Path

from contract import signatures
from tests.built import built
from tests.paths import ROOT

DEFAULT_DIR = ROOT / "build" / "serving"
# Versions of each model. `gru` has two layers, `rnn` is unrolled, `window` is a sliding-window model.
VERSIONS = {"lstm": (1, 2), "gru": (1,), "rnn": (1,), "window": (1,)}
MAX_BATCH_SIZE = signatures.MAX_BATCH_SIZE
MADE_BY = "made-by"
# Sources that the models depend on.
_SOURCES = (
    "export/graphs",
    "export/repository/models_config.py",
    "export/repository/artifacts.py",
    "export/repository/publishing.py",
    "contract",
    "tests/conftest.py",
    "tests/serving/repository.py",
)

_IMAGE = "tensorflow/serving:2.21.0"
# No --model_config_file_poll_wait_seconds: a polled file undoes the reload of a request.
_FLAGS = (
    "--port=8500",
    f"--model_config_file=/models/{signatures.MODELS_CONFIG}",
    "--file_system_poll_wait_seconds=1",
    "--tensorflow_intra_op_parallelism=1",
    "--tensorflow_inter_op_parallelism=2",
    "--allow_version_labels_for_unavailable_models=true",
)


class StaleModels(Exception):
    """The error that the directory holds models of another state of the code."""


def make_repository(folder: Path) -> None:
    """Copy the missing models, and write the files beside them.

    Raises:
        StaleModels: the directory was made by another state of the code.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stamp = folder / MADE_BY
    if not stamp.exists():
        stamp.write_text(_code_hash())
    if stamp.read_text() != _code_hash():
        raise StaleModels(f"{folder} was made by another state of the code; remove it and make it again")
    for name, versions in VERSIONS.items():
        for version in versions:
            if not (folder / name / str(version)).exists():
                _copy(folder, name, version)


def docker_line(folder: Path) -> str:
    """Return the command that runs TensorFlow Serving's image on the models, on port 8500 of the loopback interface."""
    mount = f"type=bind,source={folder.resolve()},target=/models,readonly"
    docker = ["docker", "run", "--rm", "--init", "-p", "127.0.0.1:8500:8500", "--mount", mount]
    # The image's own entrypoint is a script that does not forward signals.
    return shlex.join([*docker, "--entrypoint", "tensorflow_model_server", _IMAGE, *_FLAGS])


def main() -> int:
    """Make the models and print how to start a server on them."""
    parser = argparse.ArgumentParser(prog="tests.serving.repository", description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?", default=DEFAULT_DIR, metavar="DIR", help="default %(default)s")
    parser.add_argument("--quiet", action="store_true", help="make them and say nothing")
    arguments = parser.parse_args()
    try:
        make_repository(arguments.folder)
    except StaleModels as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if not arguments.quiet:
        print(f"start TensorFlow Serving with:\n{docker_line(arguments.folder)}")
    return 0


def _copy(folder: Path, name: str, version: int) -> None:
    from export.repository.models_config import add_to_models_config
    from tests.conftest import publish_models, publish_versions

    source = built("versions", publish_versions) / "demo" if name == "lstm" else built("models", publish_models) / name
    shutil.copytree(source / str(version), folder / name / str(version))
    add_to_models_config(folder, name)


def _code_hash() -> str:
    digest = hashlib.sha256()
    for source in _SOURCES:
        path = ROOT / source
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(file.read_bytes())
    return digest.hexdigest()


if __name__ == "__main__":
    sys.exit(main())
