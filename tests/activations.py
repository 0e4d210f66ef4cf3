"""Reads files of activations, without the package safetensors."""

import json
import struct

import numpy as np


def read_safetensors(path):
    """Return the tensors and the metadata of a file by the format's description."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    metadata = header.pop("__metadata__")
    types = {"F16": "<f2", "I32": "<i4"}
    # They fill the file without gaps.
    assert [end for each in header.values() for end in each["data_offsets"]][1::2][-1] == len(data)
    return {
        name: np.frombuffer(data[slice(*each["data_offsets"])], types[each["dtype"]]).reshape(each["shape"])
        for name, each in header.items()
    }, metadata
