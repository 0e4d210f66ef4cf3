"""An untrained model of nanoGPT's shape: `python -m benchmarks.competitors.nanogpt FILE TYPE CONTEXT` writes GGUF.

The shape is that of nanoGPT's `config/train_shakespeare_char.py`, except for the context: a request of the benchmark is
longer than 256 tokens. The vocabulary is the fixture model's characters.
"""

import json
import sys
from pathlib import Path

from benchmarks.fixture_model import CHARACTERS

LAYERS, HEADS, WIDTH = 6, 6, 384
BYTES_PER_VALUE = 2  # of a key or value: float16, llama.cpp's default
# GPT-2's tokenizer writes a space as Ġ. llama.cpp expects a merge, which the prompt does not contain.
TOKENS = [*CHARACTERS.replace(" ", "Ġ"), "th", "<|end|>"]


def kv_cache_bytes(num_tokens: int) -> int:
    """Return the size of the keys and values of a sequence, computed from the shape."""
    return 2 * LAYERS * WIDTH * BYTES_PER_VALUE * num_tokens


def write_gguf(path: Path, kind: str, context: int) -> None:
    """Write the model with random weights; `kind` is the type of its matrices: F32, F16, BF16 or Q8_0."""
    import gguf  # noqa: PLC0415 - only this step needs the packages of requirements/competitors.txt
    import numpy as np  # noqa: PLC0415

    rng, writer = np.random.default_rng(0), gguf.GGUFWriter(path, "gpt2")
    matrix_type = gguf.GGMLQuantizationType[kind]
    writer.add_context_length(context)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(4 * WIDTH)
    writer.add_head_count(HEADS)
    writer.add_layer_norm_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([gguf.TokenType.NORMAL] * (len(TOKENS) - 1) + [gguf.TokenType.CONTROL])
    writer.add_token_merges(["t h"])
    writer.add_eos_token_id(len(TOKENS) - 1)
    writer.add_add_bos_token(False)

    def matrix(name: str, *shape: int) -> None:
        values = rng.normal(scale=0.02, size=shape).astype(np.float32)
        writer.add_tensor(f"{name}.weight", gguf.quants.quantize(values, matrix_type), raw_dtype=matrix_type)

    def vector(name: str, size: int, value: float = 0) -> None:
        writer.add_tensor(name, np.full(size, value, np.float32))

    def norm(name: str) -> None:
        vector(f"{name}.weight", WIDTH, 1)
        vector(f"{name}.bias", WIDTH)

    matrix("token_embd", len(TOKENS), WIDTH)
    writer.add_tensor("position_embd.weight", rng.normal(scale=0.02, size=(context, WIDTH)).astype(np.float32))
    products = {
        "attn_qkv": (3 * WIDTH, WIDTH),
        "attn_output": (WIDTH, WIDTH),
        "ffn_up": (4 * WIDTH, WIDTH),
        "ffn_down": (WIDTH, 4 * WIDTH),
    }
    for layer in range(LAYERS):
        norm(f"blk.{layer}.attn_norm")
        norm(f"blk.{layer}.ffn_norm")
        for name, shape in products.items():
            matrix(f"blk.{layer}.{name}", *shape)
            vector(f"blk.{layer}.{name}.bias", shape[0])
    norm("output_norm")
    matrix("output", len(TOKENS), WIDTH)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_huggingface(directory: Path, context: int) -> None:
    """Write configuration and tokenizer for vLLM, which makes random weights itself, in bfloat16."""
    last = len(TOKENS) - 1
    config = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "n_layer": LAYERS,
        "n_head": HEADS,
        "n_embd": WIDTH,
        "n_positions": context,
        "vocab_size": len(TOKENS),
        "bos_token_id": last,
        "eos_token_id": last,
        "dtype": "bfloat16",
    }
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [
            {
                "id": last, "content": TOKENS[last], "special": True,
                "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
            }
        ],
        "pre_tokenizer": byte_level,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": {token: i for i, token in enumerate(TOKENS)}, "merges": [["t", "h"]]},
    }  # fmt: skip
    tokenizer_config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": TOKENS[last]}
    files = {"config": config, "tokenizer": tokenizer, "tokenizer_config": tokenizer_config}
    for name, content in files.items():
        (directory / f"{name}.json").write_text(json.dumps(content))


if __name__ == "__main__":
    write_gguf(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
