"""A large corpus is prepared for training in a fraction of its size in memory."""

import json
import os
import subprocess
import sys

import pytest

from tests.paths import ROOT

MB = 1_000_000
# Prepares the data of a run, reads one epoch of batches and prints the growth of peak memory.
CHILD = """
import json, pathlib, sys
import numpy as np
from export.config import load_config
from export.corpora.corpus import read_corpus
from export.training.dataset import Dataset
from export.vocabulary import describe_dropped_words, train_tokenizer

def peak_bytes():
    # The peak of this process alone: getrusage includes the peak of the parent before exec.
    status = pathlib.Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])

settings = {"name": "m", "corpus": sys.argv[1], **json.loads(sys.argv[2])}
config = load_config(None, settings)
import tokenizers  # what is imported later is not the corpus's

before = peak_bytes()
corpus = read_corpus(config.corpus, config.documents)
head, tail = corpus.split(config.validation_fraction(corpus.num_characters), config.seed)
tokenizer = train_tokenizer(config, head)
list(describe_dropped_words(config, head, tokenizer))
dataset = Dataset.lay_out(head, tail, tokenizer, config)
excerpts = (tail or head).excerpts()
corpus.sha256()
after = peak_bytes()
tokens = sum(targets.size for _, targets in dataset.train.batches(np.random.default_rng(0)))
print(json.dumps([after - before, corpus.num_characters, tokens]))
"""


def write_text(path, num_bytes):
    """Write paragraphs of a megabyte, in lines of words."""
    lines = [" ".join(f"word{(number * k) % 997}" for k in range(1, 9)) for number in range(1, 15_000)]
    block = ("\n".join(lines) + "\n\n").encode()
    with path.open("wb") as file:
        while file.tell() < num_bytes:
            file.write(block)


@pytest.mark.parametrize(
    ("megabytes", "settings"),
    [(64, {"documents": "blank-line", "direction": "backward"}), (32, {"token_unit": "word", "num_words": 500})],
    ids=["paragraphs from their ends", "words of a running text"],
)
def test_a_large_corpus_is_prepared_in_less_memory_than_half_its_size(tmp_path, megabytes, settings):
    """Reading, hashing, training the tokenizer, encoding and batching; as strings it would take twice its size."""
    path = tmp_path / "book.txt"
    write_text(path, megabytes * MB)
    settings = {"batch_size": 512, "sequence_length": 5000, **settings}
    command = [sys.executable, "-c", CHILD, str(path), json.dumps(settings)]
    printed = subprocess.check_output(command, env={**os.environ, "PYTHONPATH": str(ROOT)})
    peak_bytes, num_characters, num_tokens = json.loads(printed)
    path.unlink()
    assert num_characters > (megabytes - 1) * MB
    assert num_tokens > megabytes * MB / 20
    assert 0 < peak_bytes < megabytes * MB / 2
