"""The model under test: an untrained LSTM of the documented size; training does not change the speed.

`python -m benchmarks.fixture_model DIRECTORY UNITS LAYERS EMBEDDING` publishes it.
"""

import sys
from pathlib import Path

CHARACTERS = "".join(map(chr, range(32, 127)))
UNITS, EMBEDDING = 512, 64
NAME = "bench"
PROMPT_LENGTH, NEW_TOKENS, TEMPERATURE = 100, 200, 0.8


def prompt_of(length: int) -> str:
    return (CHARACTERS * (1 + length // len(CHARACTERS)))[:length]


PROMPT = prompt_of(PROMPT_LENGTH)
BODY = {"model": NAME, "prompt": PROMPT, "max_tokens": NEW_TOKENS, "temperature": TEMPERATURE}
# Requests per measurement by concurrency: a few seconds.
NUM_REQUESTS = {1: 24, 8: 96, 64: 1280}


def main(models_dir: Path, units: int, num_layers: int, embedding: int) -> None:
    """Publish the model to a repository."""
    import keras  # noqa: PLC0415 - only this step and the processes that measure TensorFlow may import it

    from contract.tokenizers import CharacterTokenizer  # noqa: PLC0415
    from export.repository.publishing import publish  # noqa: PLC0415

    keras.utils.set_random_seed(0)
    tokenizer = CharacterTokenizer.train(CHARACTERS)
    layers = [
        keras.layers.Input([None], dtype="int32"),
        keras.layers.Embedding(len(tokenizer), embedding),
        *(keras.layers.LSTM(units, return_sequences=True) for _ in range(num_layers)),
        keras.layers.Dense(len(tokenizer)),
    ]
    publish(keras.Sequential(layers), tokenizer, NAME, models_dir)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
