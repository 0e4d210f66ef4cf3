"""Prints where TensorFlow's headers and libraries are, as JSON; runs in the Python that has it.

Arguments are a file to write and .proto files of TensorFlow. Descriptors of these, and of all that they import, go into
the file: the wheel has its messages as Python modules alone.
"""

import importlib
import json
import sys
from pathlib import Path

import tensorflow as tf
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet


def add(file: FileDescriptor, files: dict[str, FileDescriptor]) -> None:
    """Add a file, after the files that it imports."""
    for imported in file.dependencies:
        add(imported, files)
    files.setdefault(file.name, file)


def main(descriptors: str, protos: list[str]) -> None:
    """Write the descriptors, and print the rest."""
    files: dict[str, FileDescriptor] = {}
    for proto in protos:
        module = proto.removesuffix(".proto").replace("/", ".") + "_pb2"
        add(importlib.import_module(module).DESCRIPTOR, files)
    file_set = FileDescriptorSet()
    for file in files.values():
        file.CopyToProto(file_set.file.add())
    Path(descriptors).write_bytes(file_set.SerializeToString(deterministic=True))
    print(json.dumps({"tensorflow_dir": tf.sysconfig.get_lib(), "flags": tf.sysconfig.get_compile_flags()}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
