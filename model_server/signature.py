"""One signature of a loaded version: its inputs, its outputs and its graph function.

Knows names, dtypes and shapes. Does not know request messages or its version.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef, TensorInfo

from model_server import tensors
from model_server.errors import InvalidRequest
from model_server.saved_model import failed


@dataclass(frozen=True)
class TensorSpec:
    """Dtype (a `DataType`) and shape of an input or output; -1 means any size, None any rank."""

    dtype: int
    shape: tuple[int, ...] | None

    @classmethod
    def from_info(cls, info: TensorInfo) -> "TensorSpec":
        """Convert a SavedModel's TensorInfo."""
        shape = info.tensor_shape
        return cls(info.dtype, None if shape.unknown_rank else tuple(dim.size for dim in shape.dim))

    def takes(self, shape: tuple[int, ...]) -> bool:
        """Return whether a tensor of this shape matches."""
        if self.shape is None:
            return True
        return len(shape) == len(self.shape) and all(
            expected in (-1, actual) for expected, actual in zip(self.shape, shape, strict=True)
        )


class Signature:
    """A thread-safe callable signature: one array per input, by keyword, in; one per output out."""

    def __init__(self, name: str, definition: SignatureDef, function: Callable[..., dict[str, np.ndarray]]) -> None:
        self.name = name
        self.inputs = {key: TensorSpec.from_info(info) for key, info in sorted(definition.inputs.items())}
        self.outputs = {key: TensorSpec.from_info(info) for key, info in sorted(definition.outputs.items())}
        self._function = function

    def decode(self, protos: Mapping[str, TensorProto]) -> dict[str, np.ndarray]:
        """Validate and decode the inputs of a request: one tensor per input, of its dtype and a matching shape.

        Raises:
            InvalidRequest: an input is missing, unknown or does not match; the message names it.
        """
        if protos.keys() != self.inputs.keys():
            raise InvalidRequest(self._names_differ(protos.keys()))
        for number, (name, spec) in enumerate(self.inputs.items()):
            self._check(number, name, spec, protos[name])
        return {name: tensors.decode(name, protos[name]) for name in self.inputs}

    def select(self, output_filter: Sequence[str]) -> Collection[str]:
        """Return the names of the requested outputs; an empty filter selects all.

        Raises:
            InvalidRequest: an output does not exist or is listed twice.
        """
        for position, name in enumerate(output_filter):
            if name not in self.outputs:
                names = ",".join(self.outputs)
                raise InvalidRequest(
                    f"output tensor alias not found in signature: {name} Outputs expected to be in the set {{{names}}}."
                )
            if name in output_filter[:position]:
                raise InvalidRequest(f"duplicate output tensor alias: {name}")
        return output_filter or self.outputs.keys()

    def __call__(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run the graph on inputs as `decode` returns them, and return all outputs.

        Raises:
            TensorFlowFailed: with TensorFlow's own code and message.
        """
        try:
            return self._function(**arrays)
        except tf.errors.OpError as error:
            raise failed(error) from error

    def _names_differ(self, sent: Collection[str]) -> str:
        extra, missing = sorted(sent - self.inputs.keys()), sorted(self.inputs.keys() - sent)
        return (
            f"input size does not match signature: {len(sent)}!={len(self.inputs)} "
            f"len({{{','.join(sorted(sent))}}}) != len({{{','.join(self.inputs)}}}). "
            f"Sent extra: {{{','.join(extra)}}}. Missing but required: {{{','.join(missing)}}}."
        )

    def _check(self, number: int, name: str, spec: TensorSpec, proto: TensorProto) -> None:
        if proto.dtype != spec.dtype:
            raise InvalidRequest(
                f"Expects arg[{number}] to be {tensors.dtype_name(spec.dtype)} but "
                f"{tensors.dtype_name(proto.dtype)} is provided (input {name!r} of signature {self.name!r})"
            )
        shape = tuple(dimension.size for dimension in proto.tensor_shape.dim)
        if not spec.takes(shape):
            raise InvalidRequest(
                f"input {name!r} of signature {self.name!r} must have shape {list(spec.shape or ())} "
                f"(-1: any size), got {list(shape)}"
            )
