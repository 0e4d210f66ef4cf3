"""What a person sees of a training: a progress bar, a line and a sample after each epoch."""

import shutil
import sys
import textwrap
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from contract import signatures
from contract.tokenizer import Tokenizer
from export.config import TrainConfig
from export.exportable import prepare
from export.runs import Progress
from export.signatures import Generator
from export.specs import input_specs

SAMPLE_TOKENS = 200
# Of these, what is shown: 200 words would fill the screen.
SAMPLE_CHARACTERS = 400
# Characters of given text that a sample goes on from, or leads up to.
SAMPLE_GIVEN = 40
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
        # The fraction done may come from a time limit, so the bar counts to 1, not windows.
        self._bar = tqdm(
            total=1.0,
            bar_format="{desc} {percentage:3.0f}%|{bar:10}| {remaining} left{postfix}",
            disable=not sys.stderr.isatty(),
            leave=False,
            dynamic_ncols=True,
            miniters=0,
            smoothing=0,
        )

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
        if not self._tokens:
            # A resumed run begins in the middle: the time left follows from what this process does.
            self._bar.initial = self._bar.n = fraction
        self._tokens += tokens
        validation = "" if self._validation_loss is None else f", val {self._validation_loss:.3f}"
        self._bar.set_description_str(f"epoch {epoch}", refresh=False)
        self._bar.set_postfix_str(f"loss {train_loss:.3f}{validation}, {self._rate():,.0f} tokens/s", refresh=False)
        self._bar.update(fraction - self._bar.n)

    def epoch(self, progress: Progress, model: keras.Model) -> None:
        """Print the epoch's losses and what the model writes now."""
        last = progress.last
        self._validation_loss = last.validation_loss
        validation = "" if last.validation_loss is None else f", validation {last.validation_loss:.3f}"
        best = ", best so far" if progress.best_epoch == progress.epochs else ""
        losses = f"loss {last.train_loss:.3f}{validation} nats/token"
        say(f"epoch {progress.epochs}: {losses}, {self._rate():,.0f} tokens/s{best}")
        say(layout(self._writer.write(model)))

    def _rate(self) -> float:
        return self._tokens / max(time.monotonic() - self._started, 1e-9)


class NoDisplay:
    """Shows nothing: of several machines that train together, one tells the progress."""

    def window(self, epoch: int, train_loss: float, tokens: int, fraction: float) -> None:
        """See `export.training.Display`."""

    def epoch(self, progress: Progress, model: keras.Model) -> None:
        """See `export.training.Display`."""


def layout(sample: str) -> str:
    """Indent a sample and break its lines; a control character, which the terminal would obey, becomes a dot."""
    width = min(100, shutil.get_terminal_size().columns - 5)
    visible = ["".join(c if c.isprintable() else "·" for c in line.expandtabs(4)) for line in sample.splitlines()]
    return "\n".join(f"    {part}" for line in visible for part in textwrap.wrap(line, width) or [""])


class SampleWriter:
    """Lets a model go on with pieces of a text, by the same `decode` that is published."""

    def __init__(self, tokenizer: Tokenizer, documents: Sequence[str], config: TrainConfig) -> None:
        """Prepare.

        Args:
            tokenizer: The model's.
            documents: Where the pieces come from, at least one; best ones that the training does not see.
            config: Of the training; its seed chooses places in the text and what is drawn.
        """
        self._tokenizer, self._documents, self._backward = tokenizer, documents, config.direction == "backward"
        self._rng = np.random.default_rng(config.seed)
        self._generator: Generator | None = None

    def write(self, model: keras.Model) -> str:
        """Return a piece of the text in brackets, and behind it what the model makes of it, or before it."""
        generator = self._updated(model)
        given = self._pick_piece()
        token_ids = self._tokenizer.encode(given)[:: -1 if self._backward else 1] or [self._tokenizer.special.start]
        state = tf.zeros([1, generator.network.state_size])
        length = len(token_ids) - 1
        state = self._prefill(
            token_ids=tf.constant([token_ids[:-1]], tf.int32), lengths=tf.constant([length]), state=state
        )["state"]
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
        drawn = decoded["token_ids"].numpy()[0].tolist()
        if self._backward:
            detokenizer = self._tokenizer.backward_detokenizer(given)
            text = detokenizer.feed(drawn)
            return f"{detokenizer.flush()}{text}[{given}]"[-SAMPLE_CHARACTERS:]
        detokenizer = self._tokenizer.detokenizer(given)
        return f"[{given}]{detokenizer.feed(drawn)}{detokenizer.flush()}"[:SAMPLE_CHARACTERS]

    def _updated(self, model: keras.Model) -> Generator:
        """Return a generator with the model's weights; the graph is traced once, and its variables assigned after."""
        fresh = Generator(prepare(model).network, self._tokenizer.special, len(self._tokenizer.tokens))
        if self._generator is None:
            self._generator = fresh
            specs = input_specs(fresh.network.state_size, fresh.network.output_size)
            self._prefill = tf.function(fresh.prefill).get_concrete_function(**specs[signatures.PREFILL])
            self._decode = tf.function(fresh.decode).get_concrete_function(**specs[signatures.DECODE])
        else:
            for variable, value in zip(self._generator.variables, fresh.variables, strict=True):
                variable.assign(value)
        return self._generator

    def _pick_piece(self) -> str:
        """Take some characters of a document, from the beginning of a word to the end of one."""
        lengths = np.array([len(document) for document in self._documents])
        text = self._documents[self._rng.choice(len(lengths), p=lengths / lengths.sum())]
        first = int(self._rng.integers(0, max(1, len(text) - SAMPLE_GIVEN)))
        words = text[first : first + SAMPLE_GIVEN].split(" ")
        # The first and the last word may be cut, unless the document begins or ends there.
        whole = words[first > 0 : len(words) - (first + SAMPLE_GIVEN < len(text))]
        return " ".join(whole if any(whole) else words)
