"""The TensorFlow that pip installed: its headers, its libraries and descriptors of its messages."""

import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from sources import Sources
from tools import BuildError, output_of

HERE = Path(__file__).resolve().parent
REQUIREMENTS = HERE.parent.parent / "requirements.txt"
VERSION = "import importlib.metadata as metadata; print(metadata.version('tensorflow'))"


@dataclass(frozen=True)
class Wheel:
    """What the compiler, the linker and protoc need of it.

    Attributes:
        tensorflow_dir: where libtensorflow_cc.so.2 and libtensorflow_framework.so.2 lie.
        flags: the compiler's, as `tf.sysconfig` gives them; without -I.
        descriptors: a file with its messages, for protoc in place of .proto files.
    """

    tensorflow_dir: Path
    flags: tuple[str, ...]
    descriptors: Path

    @property
    def include_dir(self) -> Path:
        """The headers."""
        return self.tensorflow_dir / "include"

    @property
    def protobuf_version(self) -> str:
        """The release of protobuf whose headers it has: generated code compiles with no other."""
        header = (self.include_dir / "google/protobuf/stubs/common.h").read_text()
        # 6031001 is 31.1.
        minor, patch = re.findall(r"#define GOOGLE_PROTOBUF_VERSION \d(\d{3})(\d{3})", header)[0]
        return f"{int(minor)}.{int(patch)}"


def pinned_version() -> str:
    """Return the version in requirements.txt."""
    return re.findall(r"^tensorflow==(\S+)", REQUIREMENTS.read_text(), re.MULTILINE)[0]


def find_wheel(python: str, work: Path, sources: Sources) -> Wheel:
    """Ask a Python for its TensorFlow.

    Raises:
        BuildError: there is no such Python, or it does not have the pinned version.
    """
    pinned = pinned_version()
    try:
        asked = subprocess.run([python, "-c", VERSION], capture_output=True, text=True, check=False)
    except OSError as error:
        raise BuildError(f"{python}: {error.strerror}; `make run` makes .venv, and --python names another") from error
    version = asked.stdout.strip() or "none"
    if version != pinned:
        raise BuildError(f"tensorflow {pinned} is needed, and {python} has {version}; --python names another Python")
    print(f"asking tensorflow {version} for its headers and messages", flush=True)
    descriptors = work / "tensorflow.descriptors"
    command = [python, HERE / "describe_tensorflow.py", descriptors, *sources.tensorflow_protos]
    answer = json.loads(output_of(command, "tensorflow does not say where its headers are"))
    flags = tuple(flag for flag in answer["flags"] if not flag.startswith("-I"))
    return Wheel(Path(answer["tensorflow_dir"]), flags, descriptors)
