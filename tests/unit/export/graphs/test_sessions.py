"""What a session, such as TensorFlow Serving's, makes of the signatures."""

import numpy as np
import tensorflow as tf
from tensorflow.compat.v1 import RunMetadata, RunOptions

from contract.tokenizers import SpecialIds
from export.graphs import cells
from export.graphs.exportable import prepare
from export.graphs.signatures import Generator
from model_server import saved_model
from tests.unit.export.models import VOCABULARY, make_model

BATCH_SIZE = 8


def called_functions(session, definition):
    """Return the function calls in the optimized graph of a signature."""
    inputs = {
        info.name: np.zeros(
            [BATCH_SIZE if size.size == -1 else size.size for size in info.tensor_shape.dim],
            tf.dtypes.as_dtype(info.dtype).as_numpy_dtype,
        )
        for info in definition.inputs.values()
    }
    metadata = RunMetadata()
    outputs = [info.name for info in definition.outputs.values()]
    session.run(outputs, inputs, RunOptions(output_partition_graphs=True), metadata)
    return [node.name for graph in metadata.partition_graphs for node in graph.node if "PartitionedCall" in node.op]


def test_a_session_inlines_every_step(tmp_path, monkeypatch):
    """A step that stays a function costs a call, whose operations hop between threads."""
    monkeypatch.setattr(cells, "MIN_BFLOAT16_UNITS", 1)
    monkeypatch.setattr(cells.StatefulNetwork, "unroll", 1)
    generator = Generator(prepare(make_model()).network, SpecialIds(0, 1, 2, 2), VOCABULARY)
    tf.saved_model.save(generator, str(tmp_path), signatures=generator.signatures())
    session, definitions = saved_model.load(tmp_path)
    signatures = {name: each for name, each in definitions.items() if not name.startswith("__")}
    assert len(signatures) == 15
    assert [call for each in signatures.values() for call in called_functions(session, each)] == []
