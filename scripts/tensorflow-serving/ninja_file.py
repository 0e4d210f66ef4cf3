"""Writes build.ninja: how sources are compiled, and what the executable is linked with."""

import re
from pathlib import Path

from sources import COMMIT, STAND_INS, Sources
from tensorflow_wheel import Wheel
from tools import BuildError, output_of

EXECUTABLE = "tensorflow_model_server"
# Sources that share a translation unit: most of the time goes into TensorFlow's headers.
UNIT_SIZE = 9
OWN_SOURCE = Path(__file__).resolve().parent / "process_1.cc"


def translation_units(work: Path, sources: Sources) -> list[tuple[Path, str]]:
    """Return the files to compile, each with a title for the progress."""
    units = []
    for number, first in enumerate(range(0, len(sources.units), UNIT_SIZE)):
        names = sources.units[first : first + UNIT_SIZE]
        path = work / f"unit{number}.cc"
        write_if_changed(path, "".join(f'#include "{name}"\n' for name in names))
        units.append((path, f"{names[0]} and {len(names) - 1} more"))
    generated = [name.replace(".proto", ".pb.cc") for name in sources.protos]
    generated += [name.replace(".proto", ".grpc.pb.cc") for name in sources.services]
    units += [(work / "generated" / name, name) for name in generated]
    return [*units, (OWN_SOURCE, OWN_SOURCE.name)]


def compiler_flags(wheel: Wheel, work: Path, sources: Sources) -> list[str]:
    """Return directories of headers, and the flags of TensorFlow's wheel."""
    # TensorFlow Serving includes <libevent/include/event2/…>.
    libevent = work / "libevent"
    libevent.mkdir(exist_ok=True)
    if not (libevent / "include").is_symlink():
        (libevent / "include").symlink_to("/usr/include")
    re2 = wheel.include_dir / "external/com_googlesource_code_re2"
    folders = [STAND_INS, work / "generated", work, sources.checkout, wheel.include_dir, re2]
    return [
        *wheel.flags,
        "-O2 -fPIC -w -DNDEBUG",
        # Names in protobuf that older releases of gRPC give aliases to, and that protobuf has renamed.
        "-DGRPC_CUSTOM_JSONUTIL=::google::protobuf -DGRPC_CUSTOM_UTIL_STATUS=::absl::Status",
        f"-DBUILD_SCM_REVISION='\"{COMMIT}\"'",
        *(f"-I{folder}" for folder in folders),
    ]


def archives(compiler: str) -> list[Path]:
    """Return the static libraries of gRPC and of what it needs, and libevent's."""
    command = ["pkg-config", "--static", "--libs", "grpc++", "re2"]
    names = re.findall(r"-l(\S+)", output_of(command, "pkg-config does not find gRPC"))
    found = []
    for name in dict.fromkeys([*names, "event", "event_pthreads"]):
        path = Path(output_of([compiler, f"-print-file-name=lib{name}.a"], f"{compiler} fails").strip())
        # The compiler repeats the name of a file that it does not find. Without it, TensorFlow's functions of the same
        # names would be linked.
        if not path.is_absolute():
            raise BuildError(f"{path} is missing: the build needs static libraries, as Debian's packages have them")
        found.append(path)
    return found


def re2_names(libraries: list[Path]) -> dict[str, str]:
    """Return names of RE2's symbols in static libraries, and the names that they get instead.

    TensorFlow exports an RE2 of its own, which TensorFlow Serving is compiled against. gRPC uses the system's.
    """
    listed = output_of(["nm", "--format=posix", *libraries], "nm fails")
    return {name: f"grpc_{name}" for name in sorted(set(re.findall(r"^\w*3re2\w*", listed, re.MULTILINE)))}


def write_ninja(compiler: str, wheel: Wheel, work: Path, sources: Sources) -> None:
    """Write it, and the files that it names."""
    libraries = archives(compiler)
    renamed = [path for path in libraries if path.name in ("libgrpc.a", "libre2.a")]
    names = re2_names(renamed)
    write_if_changed(work / "re2.names", "".join(f"{old} {new}\n" for old, new in names.items()))
    # TensorFlow exports much of what it contains: OpenSSL's and zlib's functions, and parts of another gRPC. So
    # the executable contains its own, before TensorFlow, and exports nothing: neither calls into the other.
    write_if_changed(work / "exports.map", "{ local: *; };\n")
    static = " ".join(path.name if path in renamed else str(path) for path in libraries)
    lines = [
        f"flags = {' '.join(compiler_flags(wheel, work, sources))}",
        f"rule compile\n command = {compiler} $flags -MMD -MF $out.d -c $in -o $out",
        " depfile = $out.d\n deps = gcc\n description = $title",
        "rule rename\n command = objcopy --redefine-syms=re2.names $in $out\n description = $out",
        f"rule link\n command = {compiler} -pie -s -o $out $in -Wl,--gc-sections -Wl,--version-script=exports.map $",
        f"  -Wl,--start-group {static} -Wl,--end-group $",
        f"  -L{wheel.tensorflow_dir} -l:libtensorflow_cc.so.2 -l:libtensorflow_framework.so.2 $",
        # Beside the executable, as in an image, or else where pip installed them.
        f"  -Wl,-rpath,'$$ORIGIN:{wheel.tensorflow_dir}'",
        " description = linking",
    ]
    lines += [f"build {path.name}: rename {path} | re2.names" for path in renamed]
    objects = []
    for source, title in translation_units(work, sources):
        objects.append(f"{source.name}.o")
        lines.append(f"build {objects[-1]}: compile {source}\n title = {title}")
    dependencies = " ".join(["exports.map", *(path.name for path in renamed)])
    lines.append(f"build ../{EXECUTABLE}: link {' '.join(objects)} | {dependencies}")
    write_if_changed(work / "build.ninja", "\n".join(lines) + "\n")


def write_if_changed(path: Path, text: str) -> None:
    """Write a file; one that has this text keeps its time, so that nothing is compiled again for it."""
    if not path.exists() or path.read_text() != text:
        path.write_text(text)
