"""`python -m benchmarks.quality --corpus FILE…`: train recipes on texts, and score what is held out of each.

It is scored as served: with the `score` signature of a running model server, in one pass that carries the state from
the first token to the last. Neither the vocabulary nor the weights are trained on it.

The baselines cost next to nothing. n-grams are counted in the same training split. Of the compressors PPMd and xz, it
is the number of bits that they need for both splits beyond those for the training split; so they, unlike the others,
also learn from the held-out text while they read it.
"""

import argparse
import contextlib
import lzma
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyppmd
from tqdm import tqdm

from benchmarks.report import RESULTS, machine, print_table, write_results
from benchmarks.servers import Servers
from contract.card import GeneratorCard, load_assets
from contract.signatures import SCORE
from export.config import load_config
from export.corpora.bits_per_character import bits_per_character, count_characters
from export.corpora.corpus import Corpus, read_corpus
from export.corpora.documents import Documents
from export.corpora.encoder import encode_corpus
from export.errors import ExportError
from service.backends.client import ModelServerClient
from service.scheduling.sequence import ModelVersion

RECIPES = Path("export/recipes")
DIRECTORY = RESULTS / "quality"
# Recipes of `make quality`: those not tied to one corpus, as the demo's is.
NAMES = ("characters-3-minutes", "characters", "characters-hour", "words", "subwords")
# Higher orders of PPMd were not better on tiny Shakespeare.
PPMD_ORDER, PPMD_BYTES = 6, 1 << 28


@dataclass(frozen=True)
class Score:
    """Evaluation of a recipe on a held-out text.

    Attributes:
        seed: Of the training run.
        nats: Loss per token, as served.
        bits_per_character: The only metric that is comparable between tokenizers.
    """

    corpus: str
    recipe: str
    seed: int
    nats: float
    bits_per_character: float
    accuracy: float
    card: GeneratorCard

    def row(self) -> tuple[str, ...]:
        """Return a row of the table."""
        card, report = self.card, self.card.training
        assert report is not None, "it was just trained"
        return (
            self.corpus,
            self.recipe,
            f"{self.seed}",
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
    "corpus", "recipe", "seed", "model", "parameters", "minutes", "epochs", "tokens/s",
    "nats/token", "bits/character", "perplexity", "accuracy",
)  # fmt: skip


def train(recipe: str, corpus: Path, seed: int, options: argparse.Namespace) -> Path:
    """Train a recipe with the command line, unless already trained; return its version directory."""
    name = f"{corpus.stem}-{recipe}-{seed}" + (f"-{60 * options.max_minutes:.0f}s" if options.max_minutes else "")
    home = DIRECTORY / "models" / name
    done = sorted(home.glob("*/saved_model.pb"))
    if done:
        print(f"{name}: trained already, in {home}", flush=True)
        return done[-1].parent
    words = [corpus, "--config", RECIPES / f"{recipe}.toml", "--name", name, "--documents", options.documents]
    words += ["--seed", seed, "--models-dir", DIRECTORY / "models", "--runs-dir", DIRECTORY / "runs"]
    words += ["--max-minutes", options.max_minutes] if options.max_minutes else []
    subprocess.run([sys.executable, "-m", "export", "train", *map(str, words)], check=True)
    return next(home.glob("*/saved_model.pb")).parent


def split(corpus: Path, documents: Documents, seed: int) -> tuple[Corpus, Corpus]:
    """Return the training and the validation split, as `train` makes them."""
    text = read_corpus(str(corpus), documents)
    fraction = load_config(None, {"corpus": str(corpus), "name": "split"}).validation_fraction(text.num_characters)
    head, tail = text.split(fraction, seed)
    assert tail is not None, "recipes hold something out"
    return head, tail


def compressor_rows(corpus: Path, head: Corpus, tail: Corpus) -> Iterator[tuple[str, ...]]:
    """Yield a row of the table for each compressor."""
    compressors: dict[str, Callable[[bytes], bytes]] = {
        "PPMd": lambda text: pyppmd.compress(text, max_order=PPMD_ORDER, mem_size=PPMD_BYTES),
        "xz -9e": lambda text: lzma.compress(text, preset=9 | lzma.PRESET_EXTREME),
    }
    first, second = ("\n".join(part.documents).encode() for part in (head, tail))
    for name, compress in compressors.items():
        began_at = time.perf_counter()
        bits = 8 * (len(compress(first + second)) - len(compress(first))) / tail.num_characters
        minutes = (time.perf_counter() - began_at) / 60
        cells = {"corpus": corpus.stem, "recipe": name, "minutes": f"{minutes:.1f}"}
        yield _row({**cells, "nats/token": f"{bits * math.log(2):.4f}", "bits/character": f"{bits:.3f}"})


def ngram_row(corpus: Path, card: GeneratorCard) -> tuple[str, ...]:
    """Return the row of the n-grams of a version's tokens."""
    report = card.training
    assert report is not None, "it was just trained"
    loss = report.ngram_loss or math.nan
    bits = bits_per_character(loss, report.validation_tokens, report.validation_characters)
    name = f"{report.ngram_order}-grams of a {card.unit}"
    cells = {"corpus": corpus.stem, "recipe": name, "nats/token": f"{loss:.4f}", "bits/character": f"{bits:.3f}"}
    return _row({**cells, "perplexity": f"{math.exp(loss):.2f}"})


def _row(cells: dict[str, str]) -> tuple[str, ...]:
    """Return a row of the table, of cells by column; the others are empty."""
    return tuple(cells.get(column, "") for column in COLUMNS)


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
            lengths, num_top = np.array([count], np.int32), np.ones(1, np.int32)
            inputs = {"token_ids": part, "lengths": lengths, "state": state, "num_top": num_top}
            outputs = client.predict(model, SCORE, inputs, shapes)
            state = outputs["state"]
            logprobs.append(outputs["logprobs"][0])
            best.append(outputs["top_token_ids"][0, :, 0])
        client.close()
    return np.concatenate(logprobs), np.concatenate(best)


def score(version: Path, text: Corpus) -> tuple[float, float, float]:
    """Score a held-out text with the model server; unknown tokens are not evaluated.

    Returns:
        The loss in nats per token and in bits per character, and the accuracy.
    """
    _, tokenizer = load_assets(version)
    ids = np.array([tokenizer.special.start, *encode_corpus(text, tokenizer)], np.int32)
    logprobs, best = served(version, ids)
    is_known = ids[1:] != tokenizer.special.unknown
    nats = -float(logprobs[is_known].astype(np.float64).mean())
    bits = bits_per_character(nats, int(is_known.sum()), count_characters(tokenizer, ids[1:]))
    assert bits is not None, "there is a loss"
    return nats, bits, float((best == ids[1:])[is_known].mean())


def mean_row(scores: Sequence[Score]) -> tuple[str, ...]:
    """Return the row of the mean of several seeds, with the range of their losses."""
    losses = [each.nats for each in scores]
    cells = {
        "corpus": scores[0].corpus,
        "recipe": scores[0].recipe,
        "seed": "mean",
        "nats/token": f"{np.mean(losses):.4f} ({min(losses):.4f}–{max(losses):.4f})",
        "bits/character": f"{np.mean([each.bits_per_character for each in scores]):.3f}",
        "perplexity": f"{math.exp(np.mean(losses)):.2f}",
        "accuracy": f"{np.mean([each.accuracy for each in scores]):.1%}",
    }
    return _row(cells)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, score, print the table and write the results as JSON."""
    parser = argparse.ArgumentParser("python -m benchmarks.quality", description=__doc__)
    parser.add_argument(
        "--corpus",
        type=Path,
        required=True,
        action="append",
        help="text file, a tenth of which is held out, of a long one 500,000 characters; repeatable",
    )
    parser.add_argument("--documents", default="none", help="as `sostenuto train` has it (default: none)")
    parser.add_argument("--max-minutes", type=float, help="time limit of each recipe, in place of its own")
    parser.add_argument("--seed", type=int, default=0, help="the first seed (default: %(default)s)")
    parser.add_argument(
        "--seeds", type=int, default=1, help="runs of each recipe, each with the next seed (default: 1)"
    )
    parser.add_argument("recipes", nargs="*", metavar="RECIPE", help=f"default: {' '.join(NAMES)}")
    options = parser.parse_args(arguments)
    recipes = options.recipes or NAMES
    for corpus in options.corpus:
        if not corpus.is_file():
            parser.error(f"--corpus: no file {corpus}")
    unknown = [name for name in recipes if not (RECIPES / f"{name}.toml").is_file()]
    if unknown:
        parser.error(f"no recipe {unknown[0]} in {RECIPES}")
    # Which documents are held out depends on the seed, as well.
    seeds = range(options.seed, options.seed + options.seeds)
    try:
        of_corpora = {
            corpus: {seed: split(corpus, options.documents, seed) for seed in seeds} for corpus in options.corpus
        }
    except ExportError as error:
        parser.error(str(error))
    started, scores, rows = time.time(), list[Score](), list[tuple[str, ...]]()
    for corpus, splits in of_corpora.items():
        for recipe in recipes:
            own = list[Score]()
            for seed, (_, tail) in splits.items():
                version = train(recipe, corpus, seed, options)
                own.append(Score(corpus.stem, recipe, seed, *score(version, tail), load_assets(version)[0]))
                rows.append(own[-1].row())
                print_table(COLUMNS, rows[-1:])
                print(flush=True)
            scores += own
            rows += [mean_row(own)] if len(own) > 1 else []
        rows += [ngram_row(corpus, scores[-1].card), *compressor_rows(corpus, *splits[seeds[-1]])]
    print(f"{machine()}\n")
    print_table(COLUMNS, rows)
    document = [{**asdict(each), "card": each.card.model_dump(mode="json")} for each in scores]
    write_results("quality/", started, scores=document, rows=rows)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
