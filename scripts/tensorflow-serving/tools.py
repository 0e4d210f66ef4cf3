"""Programs and headers that the build needs of the system, and how it runs a program."""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

# With the packages of Debian and Ubuntu that have them.
PROGRAMS = {"ninja": "ninja-build", "pkg-config": "pkg-config", "grpc_cpp_plugin": "protobuf-compiler-grpc"}
HEADERS = {
    "grpcpp/impl/service_type.h": "libgrpc++-dev",
    "openssl/ssl.h": "libssl-dev",
    "event2/http.h": "libevent-dev",
    "rapidjson/document.h": "rapidjson-dev",
    "zlib.h": "zlib1g-dev",
    "zstd.h": "libzstd-dev",
}


class BuildError(Exception):
    """A build error that the user can fix; the message says how."""


def output_of(command: Sequence[str | Path], problem: str, stdin: str = "") -> str:
    """Return what a command prints.

    Raises:
        BuildError: it fails; the message is `problem` and what the command says.
    """
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"{problem}: {done.stderr.strip()}")
    return done.stdout


def check_tools(compiler: str) -> None:
    """Name all packages that are missing, before anything is made.

    Raises:
        BuildError: a program or a header is missing.
    """
    packages = [package for program, package in PROGRAMS.items() if not shutil.which(program)]
    if shutil.which(compiler):
        packages += missing_headers(compiler)
    else:
        packages.insert(0, "g++")
    if packages:
        wanted = f"a C++ compiler ({compiler}), " if "g++" in packages else ""
        raise BuildError(f"{wanted}programs or headers are missing; apt-get install {' '.join(packages)}")


def missing_headers(compiler: str) -> list[str]:
    """Return packages of headers that the compiler does not find."""
    lines = [f"#if !__has_include(<{header}>)\n{package}\n#endif\n" for header, package in HEADERS.items()]
    command = [compiler, "-x", "c++", "-E", "-P", "-"]
    return output_of(command, f"{compiler} does not preprocess C++", stdin="".join(lines)).split()
