"""Finds the sources of TensorFlow Serving's model server by following #include and import from main.cc.

A rule names them: what x.h declares is in x.cc beside it or in oss/x.cc, and x.pb.h comes from x.proto.
"""

import hashlib
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tools import BuildError

REPOSITORY = "https://github.com/tensorflow/serving"
# A commit of its master, whose messages are those of tensorflow-serving-api 2.21.0; there is no tag for 2.21.
COMMIT = "9d981c5c2708d23c5407c7c1e30309e6f9798874"
FINGERPRINT = "649774551bbc6b6732c5eb88151eab140f40efee09dadbf0f54d57c871dc7ac2"

# Replace files that TensorFlow's wheel lacks.
STAND_INS = Path(__file__).resolve().parent / "stand-ins"
MAIN = "tensorflow_serving/model_servers/main.cc"
_INCLUDE = re.compile(r'^#include "(\S+)"', re.MULTILINE)
_IMPORT = re.compile(r'^import "(\S+)";', re.MULTILINE)


@dataclass(frozen=True)
class Sources:
    """Files as #include and import name them, sorted.

    Attributes:
        checkout: root of TensorFlow Serving's sources.
        units: the .cc files to compile.
        protos: the .proto files to generate C++ from, those of the stand-ins included.
        services: those of them that define services of gRPC.
        tensorflow_protos: the .proto files of TensorFlow that any of them needs.
        fingerprint: SHA-256 of all files of the checkout that the server is made of.
    """

    checkout: Path
    units: tuple[str, ...]
    protos: tuple[str, ...]
    services: tuple[str, ...]
    tensorflow_protos: tuple[str, ...]
    fingerprint: str


def find_sources(checkout: Path, any_version: bool = False) -> Sources:
    """Find what the server is made of; a stand-in replaces the file of the checkout.

    Raises:
        BuildError: the directory is no checkout, or has sources of another version.
    """
    if not (checkout / MAIN).is_file():
        raise BuildError(
            f"{checkout} has no {MAIN}; CHECKOUT is a clone of TensorFlow Serving: "
            f"git clone {REPOSITORY} DIR && git -C DIR checkout {COMMIT}"
        )
    files, missing, services = _follow(checkout)
    own = [name for name in sorted(files) if not (STAND_INS / name).exists()]
    digest = hashlib.sha256("".join(f"{name}\n{files[name]}\n" for name in own).encode())
    if digest.hexdigest() != FINGERPRINT and not any_version:
        raise BuildError(_wrong_version(checkout))
    return Sources(
        checkout=checkout,
        units=tuple(name for name in own if name.endswith(".cc")),
        protos=tuple(name for name in sorted(files) if name.endswith(".proto")),
        services=tuple(sorted(services)),
        tensorflow_protos=tuple(name for name in sorted(missing) if re.match(r"tensorflow/.*\.proto$", name)),
        fingerprint=digest.hexdigest(),
    )


def _follow(checkout: Path) -> tuple[dict[str, str], set[str], set[str]]:
    """Return all files from main.cc on with their text, those that exist nowhere here, and .proto files of services."""
    files: dict[str, str] = {}
    missing: set[str] = set()
    services: set[str] = set()
    waiting = [MAIN]
    while waiting:
        name = waiting.pop()
        if name.endswith(".grpc.pb.h"):
            services.add(name.replace(".grpc.pb.h", ".proto"))
        name = re.sub(r"(\.grpc)?\.pb\.h$", ".proto", name)
        if name in files or name in missing:
            continue
        root = next((root for root in (STAND_INS, checkout) if (root / name).is_file()), None)
        if root is None:
            missing.add(name)
            continue
        files[name] = (root / name).read_text(encoding="utf-8")
        waiting += (_IMPORT if name.endswith(".proto") else _INCLUDE).findall(files[name])
        if root == checkout:
            waiting += _implementations(name, checkout)
    return files, missing, services


def _implementations(name: str, checkout: Path) -> Iterator[str]:
    """Yield the .cc files of a header."""
    if name.endswith(".h"):
        path = Path(name).with_suffix(".cc")
        for candidate in (path, path.parent / "oss" / path.name):
            if (checkout / candidate).is_file():
                yield str(candidate)


def _wrong_version(checkout: Path) -> str:
    """Say which sources there are and how to get the right ones."""
    answer = subprocess.run(["git", "-C", checkout, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    head = answer.stdout.strip() if (checkout / ".git").exists() else ""
    found = "changed files" if head == COMMIT else f"commit {head}" if head else "another version"
    return (
        f"{checkout} has {found}, and the build is for commit {COMMIT}: git -C {checkout} checkout --force {COMMIT}, "
        "or --other-sources to try it as it is"
    )
