"""Signature names and limits of a published SavedModel, and the file names of the model repository.

The tensors of each signature are described in `docs/architecture.md`. `export.graphs.signatures` builds the signatures,
`service.scheduling.call` fills their inputs, and `service.backends.client` calls them.
"""

from typing import Final, Literal

SERVING_DEFAULT = "serving_default"
PREFILL = "prefill"
DECODE = "decode"
DECODE_FULL = "decode_full"
SCORE = "score"
EMBED = "embed"
INSPECT = "inspect"
NEXT_LOGPROBS = "next_logprobs"

# Revision of the signatures, in the card. Those of versions before it have other inputs.
REVISION: Literal[3] = 3

# Precisions of the products. Every signature but `serving_default` may have a variant in bfloat16.
PrecisionName = Literal["float32", "bfloat16"]
FLOAT32: Final = "float32"
BFLOAT16: Final = "bfloat16"

# Activations of a recurrent layer, which `inspect` returns: its state after each token, and its gates (LSTM: Hochreiter
# and Schmidhuber 1997, with the forget gate of Gers et al. 2000; GRU: Cho et al. 2014).
# LSTM: c' = forget⊙c + input⊙candidate, hidden' = output⊙tanh(c').
# GRU: hidden' = update⊙hidden + (1 - update)⊙candidate; reset gates the old state in the candidate.
HIDDEN, CELL = "hidden", "cell"
FORGET, INPUT, CANDIDATE, OUTPUT = "forget", "input", "candidate", "output"
UPDATE, RESET = "update", "reset"
# The only activation of a sliding-window model: the output of its top layer.
TOP = "top"

# Above 64, large layers are not bit-exact across batch sizes (measured on AVX-512 with oneDNN).
MAX_BATCH_SIZE = 64
# Candidates of the determinism probe. There multiples of 8 are bit-exact with each other; 1, 2 and 4 are not.
# With AVX2 alone 4, 16, 24, 40, 48 and 64 are, and 12, which is hardly faster than 16.
BATCH_SIZES = (4, 8, 16, 24, 32, 40, 48, 56, 64)
# Maximum number of tokens per sequence in one `decode` and one `prefill` call. Any number up to these is fine: it is a
# loop count in the graph, and neither TensorFlow nor oneDNN specializes on it.
MAX_DECODE_STEPS = 128
MAX_PREFILL_LENGTH = 128
# Entries of the transition table of `decode_full`: the next row in the low 16 bits, and above them its distance, the
# minimum number of tokens from there to a complete match. The distance of a forbidden token exceeds every budget.
ROW_BITS = 16
MAX_ROWS = 1 << ROW_BITS
FORBIDDEN_DISTANCE = (1 << 15) - 1
FORBIDDEN = FORBIDDEN_DISTANCE << ROW_BITS
# Rows of that table with a fixed meaning: any token is allowed; the match is complete, so the sequence ends.
UNCONSTRAINED_ROW, FINAL_ROW = 0, 1
# Entry of `continuations` for a row from which no further complete match can be reached.
NO_CONTINUATION = 1 << 30
# Number of most probable tokens that `decode_full` and `score` return at each position, or all of a smaller vocabulary.
NUM_TOP = 50
# Below this temperature sampling is argmax: dividing by 1e-37 gives NaN.
GREEDY_BELOW_TEMPERATURE = 1e-4

# Served models, in TensorFlow Serving's own text format; in the model repository.
MODELS_CONFIG = "models.config"
# Traffic split of requests that name a model without a version, by version or label; in the model repository. Only
# gateways read it.
ROUTING_FILE = "routing.toml"
# Directory beside the SavedModel for files that TensorFlow Serving does not read, and its files.
ASSETS = "assets.extra"
CARD_FILE = "generator.json"
TOKENIZER_FILE = "tokenizer.json"
VECTORS_FILE = "vectors.tsv"
TRAINING_FILTER_FILE = "training.bloom"


def in_precision(signature: str, precision: PrecisionName) -> str:
    """Return the name of a signature's variant in a precision: `decode` or `decode_bfloat16`."""
    return signature if precision == FLOAT32 else f"{signature}_{precision}"
