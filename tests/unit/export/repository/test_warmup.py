"""Warmup requests of a published version: every signature, at every allowed batch size."""

import numpy as np
import pytest
import tensorflow as tf

from contract import signatures
from contract.card import load_assets
from model_server.servable import WARMUP_FILE, Servable, read_requests

SIGNATURES = {
    signatures.SERVING_DEFAULT,
    signatures.PREFILL,
    signatures.DECODE,
    signatures.DECODE_FULL,
    signatures.SCORE,
    signatures.EMBED,
    signatures.INSPECT,
    signatures.NEXT_LOGPROBS,
}


@pytest.mark.parametrize("name", ["gru", pytest.param("window", marks=pytest.mark.slow)])
def test_a_published_version_answers_its_own_warmup_requests(models_dir, name):
    version = models_dir / name / "1"
    card, _ = load_assets(version)
    requests = list(read_requests(version / WARMUP_FILE))
    sizes = [next(iter(request.inputs.values())).tensor_shape.dim[0].size for request in requests]
    found = zip([request.model_spec.signature_name for request in requests], sizes, strict=True)
    assert sorted(found) == sorted((signature, rows) for signature in SIGNATURES for rows in card.batch_sizes)
    assert (version / WARMUP_FILE).stat().st_size < 2000 * len(requests)
    servable = Servable(name, 1, version)
    for request in requests:
        for output in servable.predict(request).outputs.values():
            assert np.isfinite(tf.make_ndarray(output).astype(float)).all()
