"""Names and sizes that a published SavedModel and its callers agree on.

The tensors of each signature are described in `docs/architecture.md`; `export.graphs.signatures` builds them and
`service.backends.client` calls them.
"""

SERVING_DEFAULT = "serving_default"
PREFILL = "prefill"
DECODE = "decode"
DECODE_FULL = "decode_full"
SCORE = "score"
EMBED = "embed"
INSPECT = "inspect"

# What `inspect` tells of a recurrent layer: its state after each token, and its gates (LSTM: Hochreiter and Schmidhuber
# 1997, with the forget gate of Gers et al. 2000; GRU: Cho et al. 2014).
# LSTM: c' = forget⊙c + input⊙candidate, hidden' = output⊙tanh(c').
# GRU: hidden' = update⊙hidden + (1 - update)⊙candidate; reset decides what of the old state the candidate sees.
HIDDEN, CELL = "hidden", "cell"
FORGET, INPUT, CANDIDATE, OUTPUT = "forget", "input", "candidate", "output"
UPDATE, RESET = "update", "reset"
# And of a model that sees a window, of which nothing else is known.
TOP = "top"

# Above 64 rows large layers stop giving equal bits at every batch size (measured on AVX-512 with oneDNN).
MAX_BATCH_SIZE = 64
# Multiples of 8 give equal bits at every count up to 64 there; 1, 2 and 4 rows do not.
BATCH_SIZES = (8, 16, 24, 32, 40, 48, 56, 64)
# Tokens that one `decode` call may draw and one `prefill` call may read, per row. Any number up to these can be sent:
# it is the count of a loop in the graph, and neither TensorFlow nor oneDNN prepares anything for it.
MAX_DECODE_STEPS = 128
MAX_PREFILL_LENGTH = 128
# Most probable tokens that `decode_full` and `score` tell beside each.
NUM_TOP = 5
# Below this temperature sampling is argmax: dividing by 1e-37 gives NaN.
GREEDY_BELOW_TEMPERATURE = 1e-4

# TensorFlow Serving's own text format, in the model repository: which models are served.
MODELS_CONFIG = "models.config"
# There, too, for gateways alone: which share of the requests that name just a model goes to which version or label.
ROUTING_FILE = "routing.toml"
# Folder beside the SavedModel for files that TensorFlow Serving itself does not read, and what lies in it.
ASSETS = "assets.extra"
CARD_FILE = "generator.json"
TOKENIZER_FILE = "tokenizer.json"
VECTORS_FILE = "vectors.tsv"
