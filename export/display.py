"""What a person sees of a training: a progress bar, a line and a sample after each epoch."""

import sys
import time
from types import TracebackType
from typing import Self

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from contract.tokenizer import Tokenizer
from export.signatures import Generator
from export.training import EpochReport
from export.weights import read_weights

SAMPLE_TOKENS = 200
# Characters of given text that a sample goes on from.
SAMPLE_BEGINNING = 40
SAMPLE_TEMPERATURE = 0.7


def say(line: str) -> None:
    """Print a line at once, above a progress bar if there is one."""
    tqdm.write(line, file=sys.stdout)
    sys.stdout.flush()


class TerminalDisplay:
    """A progress bar of the whole run; without a terminal, only the lines between epochs."""

    def __init__(self, writer: "SampleWriter") -> None:
        self._writer = writer
        self._validation_loss: float | None = None
        self._tokens, self._started = 0, time.monotonic()
        # The fraction done may come from a time limit, so the bar counts thousandths, not windows.
        layout = "{desc} {percentage:3.0f}%|{bar:20}| {elapsed}<{remaining}{postfix}"
        self._bar = tqdm(total=1000, bar_format=layout, disable=not sys.stderr.isatty(), leave=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Take the bar away."""
        self._bar.close()

    def window(self, epoch: int, train_loss: float, tokens: int, fraction: float) -> None:
        """Move the bar on."""
        self._tokens += tokens
        rate = self._tokens / (time.monotonic() - self._started)
        validation = "–" if self._validation_loss is None else f"{self._validation_loss:.3f}"
        self._bar.set_description_str(f"epoch {epoch}", refresh=False)
        self._bar.set_postfix_str(f"loss {train_loss:.3f} val {validation} {rate:,.0f} tokens/s", refresh=False)
        self._bar.update(int(1000 * fraction) - self._bar.n)

    def epoch(self, report: EpochReport, model: keras.Model) -> None:
        """Print the epoch's losses and what the model writes now."""
        self._validation_loss = report.validation_loss
        rate = self._tokens / (time.monotonic() - self._started)
        validation = "" if report.validation_loss is None else f", validation {report.validation_loss:.3f}"
        best = ", best so far" if report.is_best else ""
        say(f"epoch {report.epoch}: loss {report.train_loss:.3f}{validation} nats/token, {rate:,.0f} tokens/s{best}")
        beginning, text = self._writer.write(model)
        say("\n".join(f"    {line}" for line in f"[{beginning}]{text}".splitlines()))


class SampleWriter:
    """Lets a model go on with pieces of a text, by the same `decode` that is published."""

    def __init__(self, tokenizer: Tokenizer, text: str, seed: int) -> None:
        """Prepare.

        Args:
            tokenizer: The model's.
            text: Where the beginnings come from; best one that the training does not see.
            seed: Of the places in the text and of the sampling.
        """
        self._tokenizer, self._text = tokenizer, text
        self._rng = np.random.default_rng(seed)
        self._generator: Generator | None = None

    def write(self, model: keras.Model) -> tuple[str, str]:
        """Return a beginning and what the model makes of it."""
        generator = self._updated(model)
        beginning = self._pick_beginning()
        token_ids = self._tokenizer.encode(beginning) or [self._tokenizer.special.start]
        state = tf.zeros([1, generator.stack.state_size])
        length = len(token_ids) - 1
        state = self._prefill(tf.constant([token_ids[:-1]], tf.int32), tf.constant([length]), state)["state"]
        decoded = self._decode(
            token_id=tf.constant([token_ids[-1]]),
            state=state,
            uniforms=tf.constant(self._rng.random((1, SAMPLE_TOKENS), dtype=np.float32)),
            steps=tf.constant([SAMPLE_TOKENS]),
            temperature=tf.constant([SAMPLE_TEMPERATURE]),
            top_k=tf.constant([0]),
            top_p=tf.constant([1.0]),
            min_p=tf.constant([0.0]),
        )
        return beginning, self._tokenizer.detokenizer(beginning).feed(decoded["token_ids"].numpy()[0].tolist())

    def _updated(self, model: keras.Model) -> Generator:
        """Return a generator with the model's weights; the graph is traced once, and its variables assigned after."""
        fresh = Generator(read_weights(model), self._tokenizer.special, len(self._tokenizer.tokens))
        if self._generator is None:
            self._generator = fresh
            self._prefill = tf.function(fresh.prefill, reduce_retracing=True)
            self._decode = tf.function(fresh.decode, reduce_retracing=True)
        else:
            for variable, value in zip(self._generator.variables, fresh.variables, strict=True):
                variable.assign(value)
        return self._generator

    def _pick_beginning(self) -> str:
        """Take some characters from the text, from the beginning of a word to the end of one."""
        first = int(self._rng.integers(0, max(1, len(self._text) - SAMPLE_BEGINNING)))
        piece = " ".join(self._text[first : first + SAMPLE_BEGINNING].split(" "))
        words = piece.split()
        return " ".join(words[1:-1]) or piece
