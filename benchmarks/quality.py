"""`python -m benchmarks.quality --corpus FILE`: train each recipe within its time limit and score the held-out tail.

The tail is scored as served: with the `score` signature of a running model server, in one pass that carries the state
from the first token to the last. Neither the vocabulary nor the weights are trained on the tail.
"""

import argparse
import contextlib
import math
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from benchmarks.report import RESULTS, machine, print_table, write_results
from benchmarks.servers import Servers
from contract.card import GeneratorCard, load_assets
from contract.signatures import SCORE
from contract.tokenizer import Tokenizer
from service.backends.client import ModelServerClient
from service.scheduling.sequence import ModelVersion

RECIPES = Path("export/recipes")
DIRECTORY = RESULTS / "quality"
# Recipes of `make quality`: those not tied to one corpus, as the demo's is.
NAMES = ("characters-3-minutes", "characters", "characters-hour", "words", "subwords")


@dataclass(frozen=True)
class Score:
    """Evaluation of a recipe on the held-out tail.

    Attributes:
        nats: Loss per token, as served.
        bits_per_character: The only metric that is comparable between tokenizers.
    """

    recipe: str
    nats: float
    bits_per_character: float
    accuracy: float
    card: GeneratorCard

    def row(self) -> tuple[str, ...]:
        """Return a row of the table."""
        card, report = self.card, self.card.training
        assert report is not None, "it was just trained"
        return (
            self.recipe,
            f"{card.layers} × {card.cell} {card.units}",
            f"{report.parameters or 0:,}",
            f"{report.seconds / 60:.1f}",
            f"{report.epochs:.1f}",
            f"{report.tokens_per_s:,.0f}",
            f"{self.nats:.4f}",
            f"{self.bits_per_character:.3f}",
            f"{math.exp(self.nats):.2f}",
            f"{self.accuracy:.1%}",
        )


COLUMNS = (
    "recipe", "model", "parameters", "minutes", "epochs", "tokens/s",
    "nats/token", "bits/character", "perplexity", "accuracy",
)  # fmt: skip


def train(recipe: str, corpus: Path, max_minutes: float | None) -> Path:
    """Train a recipe with the command line, unless already trained; return its version directory."""
    home = DIRECTORY / "models" / recipe
    done = sorted(home.glob("*/saved_model.pb"))
    if done:
        print(f"{recipe}: trained already, in {home}", flush=True)
        return done[-1].parent
    options = [corpus, "--config", RECIPES / f"{recipe}.toml", "--name", recipe]
    options += ["--max-minutes", max_minutes] if max_minutes else []
    options += ["--models-dir", DIRECTORY / "models", "--runs-dir", DIRECTORY / "runs"]
    subprocess.run([sys.executable, "-m", "export", "train", *map(str, options)], check=True)
    return next(home.glob("*/saved_model.pb")).parent


def tail_of(corpus: Path, version: Path) -> tuple[str, np.ndarray, Tokenizer]:
    """Return a version's held-out text, its token ids int32 (tokens,) with the start token first, and the tokenizer."""
    from export.corpora.corpus import read_corpus  # noqa: PLC0415 - this module must start without TensorFlow

    card, tokenizer = load_assets(version)
    assert card.training is not None, "it was just trained"
    _, tail = read_corpus(str(corpus)).split(card.training.settings["validation"], card.training.seed)
    assert tail is not None, "recipes hold something out"
    text = "".join(tail.documents)
    return text, np.array([tokenizer.special.start, *tokenizer.encode(text)], np.int32), tokenizer


def served(version: Path, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Score token ids with a model server, slice by slice.

    Returns:
        Log probabilities float32 (tokens - 1,) of all tokens but the first, and the most probable token at each
        position.
    """
    card, _ = load_assets(version)
    model, length = ModelVersion(version.parent.name, int(version.name)), card.max_prefill_length
    logprobs, best = [], []
    with contextlib.ExitStack() as stack:
        client = ModelServerClient(Servers(version.parents[1], stack).start_model_server().address, timeout_s=60)
        state = np.zeros((1, card.state_size), np.float32)
        starts = range(0, len(ids) - 1, length)
        for start in tqdm(starts, desc="scoring", disable=not sys.stderr.isatty(), leave=False):
            part = ids[None, start : start + length + 1]
            count = part.shape[1] - 1
            shapes = {"logprobs": (1, count), "top_token_ids": (1, count, card.num_top), "state": state.shape}
            inputs = {"token_ids": part, "lengths": np.array([count], np.int32), "state": state}
            if card.revision > 1:
                inputs["num_top"] = np.ones(1, np.int32)
            outputs = client.predict(model, SCORE, inputs, shapes)
            state = outputs["state"]
            logprobs.append(outputs["logprobs"][0])
            best.append(outputs["top_token_ids"][0, :, 0])
        client.close()
    return np.concatenate(logprobs), np.concatenate(best)


def score(recipe: str, corpus: Path, version: Path) -> Score:
    """Score the tail with the model server."""
    text, ids, _ = tail_of(corpus, version)
    logprobs, best = served(version, ids)
    nats = -float(logprobs.astype(np.float64).mean())
    bits = nats * (len(ids) - 1) / math.log(2) / len(text)
    accuracy = float((best == ids[1:]).mean())
    return Score(recipe, nats, bits, accuracy, load_assets(version)[0])


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, score, print the table and write the results as JSON."""
    parser = argparse.ArgumentParser("python -m benchmarks.quality", description=__doc__)
    parser.add_argument("--corpus", type=Path, required=True, help="text file; its last tenth is held out")
    parser.add_argument("--max-minutes", type=float, help="time limit of each recipe, in place of its own")
    parser.add_argument("recipes", nargs="*", default=NAMES, metavar="RECIPE", help=f"default: {' '.join(NAMES)}")
    options = parser.parse_args(arguments)
    if not options.corpus.is_file():
        parser.error(f"--corpus: no file {options.corpus}")
    unknown = [name for name in options.recipes if not (RECIPES / f"{name}.toml").is_file()]
    if unknown:
        parser.error(f"no recipe {unknown[0]} in {RECIPES}")
    started, scores = time.time(), []
    for recipe in options.recipes:
        scores.append(score(recipe, options.corpus, train(recipe, options.corpus, options.max_minutes)))
        print_table(COLUMNS, [scores[-1].row()])
        print(flush=True)
    print(f"{machine()}\n")
    print_table(COLUMNS, [each.row() for each in scores])
    document = [{**asdict(each), "card": each.card.model_dump(mode="json")} for each in scores]
    write_results("quality/", started, scores=document)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
