"""`scripts/build-tensorflow-serving` finds sources by their includes, and checks what it needs before it compiles."""

import importlib
import os
import re
import subprocess
import sys
import zipfile

import pytest

from tests.paths import ROOT

SCRIPT = ROOT / "scripts/build-tensorflow-serving"
PARTS = ROOT / "scripts/tensorflow-serving"
MAIN = "tensorflow_serving/model_servers/main.cc"
# Programs that find nothing missing: the compiler prints the packages whose headers it lacks.
PROGRAMS = ("g++", "ninja", "pkg-config", "grpc_cpp_plugin")


@pytest.fixture
def checkout(tmp_path):
    """A small tree in the layout of tensorflow/serving."""
    files = {
        MAIN: '#include <vector>\n#include "tensorflow_serving/model_servers/server.h"\n',
        "tensorflow_serving/model_servers/server.h": '#include "tensorflow_serving/apis/talk.grpc.pb.h"\n',
        "tensorflow_serving/model_servers/server.cc": '#include "tensorflow_serving/util/files.h"\n',
        "tensorflow_serving/model_servers/unused.cc": "",
        "tensorflow_serving/util/files.h": '#include "tensorflow/cc/saved_model/tag_constants.h"\n',
        "tensorflow_serving/util/oss/files.cc": '#include "tensorflow_serving/servables/tensorflow/tflite_session.h"\n',
        "tensorflow_serving/servables/tensorflow/tflite_session.h": '#include "tensorflow_serving/lite.h"\n',
        "tensorflow_serving/servables/tensorflow/tflite_session.cc": "",
        "tensorflow_serving/lite.h": "",
        "tensorflow_serving/lite.cc": "",
        "tensorflow_serving/apis/talk.proto": 'import "tensorflow_serving/apis/words.proto";\n',
        "tensorflow_serving/apis/words.proto": 'import "tensorflow/core/framework/tensor.proto";\n',
    }
    for name, text in files.items():
        path = tmp_path / "serving" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "serving"


@pytest.fixture
def programs(tmp_path):
    """A directory for PATH with nothing but a Python and programs that find nothing missing."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in PROGRAMS:
        executable(folder / name, "#!/bin/sh\n")
    (folder / "python3").symlink_to(sys.executable)
    return folder


def executable(path, text):
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def refusal(tmp_path):
    """Run the script; return its only line, of an error."""

    def run(*arguments, path=os.environ["PATH"]):
        environment = {**os.environ, "PATH": str(path), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, SCRIPT, f"--output={tmp_path}", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert (done.returncode, done.stdout) == (1, "")
        (line,) = done.stderr.splitlines()
        return line

    return run


def git(folder, *arguments):
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    command = ["git", "-C", folder, *identity, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def imported(monkeypatch):
    """Import a module of the build; their directory is on the path only here."""
    monkeypatch.syspath_prepend(str(PARTS))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.fixture
def find_sources(imported):
    return imported("sources").find_sources


def test_sources_are_what_main_includes_and_what_implements_it(find_sources, checkout):
    sources = find_sources(checkout, any_version=True)
    assert sources.units == (MAIN, "tensorflow_serving/model_servers/server.cc", "tensorflow_serving/util/oss/files.cc")
    assert sources.protos == ("tensorflow_serving/apis/talk.proto", "tensorflow_serving/apis/words.proto")
    assert sources.services == ("tensorflow_serving/apis/talk.proto",)
    assert sources.tensorflow_protos == ("tensorflow/core/framework/tensor.proto",)


def test_the_fingerprint_changes_with_sources_of_the_server_alone(find_sources, checkout):
    before = find_sources(checkout, any_version=True).fingerprint
    (checkout / "tensorflow_serving/model_servers/unused.cc").write_text("int unused;\n")
    assert find_sources(checkout, any_version=True).fingerprint == before
    (checkout / "tensorflow_serving/util/files.h").write_text("int used;\n")
    assert find_sources(checkout, any_version=True).fingerprint != before


def test_a_directory_that_is_no_checkout_is_refused_with_the_command_that_makes_one(refusal, tmp_path):
    line = refusal(tmp_path)
    assert line.startswith(f"error: {tmp_path} has no {MAIN}; ")
    assert "git clone https://github.com/tensorflow/serving DIR" in line


def test_a_checkout_of_another_commit_is_refused_with_both_commits(refusal, checkout):
    git(checkout, "init", "--quiet")
    git(checkout, "add", ".")
    git(checkout, "commit", "--quiet", "--message=another")
    line = refusal(checkout)
    assert f"has commit {git(checkout, 'rev-parse', 'HEAD')}, " in line
    assert re.search(rf"git -C {checkout} checkout --force [0-9a-f]{{40}}, or --other-sources", line)


def test_sources_without_git_are_refused_by_their_content(refusal, checkout):
    assert f"{checkout} has another version, " in refusal(checkout)


def test_a_python_with_another_tensorflow_is_refused(refusal, checkout, programs, tmp_path):
    """Headers and libraries of another release would make another server."""
    python = executable(tmp_path / "python", "#!/bin/sh\necho 2.20.0\n")
    (pinned,) = re.findall(r"^tensorflow==(\S+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    line = refusal(checkout, "--other-sources", f"--python={python}", path=programs)
    assert line == f"error: tensorflow {pinned} is needed, and {python} has 2.20.0; --python names another Python"


@pytest.fixture
def release(imported, tmp_path, monkeypatch):
    """The module that finds protoc, on an arm64 machine with a release page in a directory."""
    protoc = imported("protoc")
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    monkeypatch.setattr(protoc, "RELEASE", f"file://{tmp_path}/v{{version}}-{{machine}}.zip")
    with zipfile.ZipFile(tmp_path / "v31.1-aarch_64.zip", "w") as archive:
        archive.writestr("include/google/protobuf/any.proto", "")
        archive.writestr("bin/protoc", "#!/bin/sh\necho libprotoc 31.1\n")
    return protoc


def test_on_arm64_protoc_comes_from_the_release_page(release, tmp_path):
    path = release.find_protoc("python", tmp_path, "31.1")
    assert subprocess.run([path], capture_output=True, text=True, check=True).stdout == "libprotoc 31.1\n"


def test_a_protoc_that_cannot_be_downloaded_is_named_with_its_address(release, tmp_path):
    with pytest.raises(Exception, match=rf"protoc 99.9 .* \(file://{tmp_path}/v99.9-aarch_64.zip.*--protoc names one"):
        release.find_protoc("python", tmp_path, "99.9")


def test_the_version_of_protoc_is_read_from_tensorflows_headers(imported, tmp_path):
    """Generated code refuses headers of any other version."""
    header = tmp_path / "include/google/protobuf/stubs/common.h"
    header.parent.mkdir(parents=True)
    header.write_text("#define GOOGLE_PROTOBUF_VERSION 6031001\n")
    assert imported("tensorflow_wheel").Wheel(tmp_path, (), tmp_path).protobuf_version == "31.1"


def test_the_image_is_built_of_the_same_commit(imported):
    text = (ROOT / "deploy/Dockerfile").read_text()
    assert re.findall(r"/tensorflow/serving\.git#(\S+)", text) == [imported("sources").COMMIT]


def test_the_image_installs_every_package_that_the_build_needs(imported):
    tools = imported("tools")
    stage = (ROOT / "deploy/Dockerfile").read_text().partition("AS tensorflow-serving-build")[2].partition("COPY")[0]
    assert {"g++", *tools.HEADERS.values(), *tools.PROGRAMS.values()} <= set(stage.split())
