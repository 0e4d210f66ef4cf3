"""`sostenuto import`: publishes an imported model and its tokenizer as a version."""

from pathlib import Path

from contract.card import Direction
from contract.errors import TokenizerError
from contract.tokenizers import CharacterTokenizer, Standardization, Tokenizer, WhitespaceRules, WordTokenizer
from export.imported.model import read_imported
from export.imported.tokenizer import read_tokenizer
from export.interrupts import deferred_interrupts
from export.repository.publishing import publish, require_name, require_writable
from export.terminal import echo


def import_model(
    model: Path,
    tokenizer: Path | None,
    name: str | None,
    context_length: int | None,
    direction: Direction,
    models_dir: Path,
) -> int:
    """Publish an imported model. Returns the exit code.

    The model is named after its file, unless a name is given. Without a tokenizer file, the tokenizer is the model's
    `TextVectorization` or `StringLookup` layer. `context_length` is the window of a sliding-window model in tokens;
    None if the model carries state or has a fixed length.
    """
    name = name or model.resolve().stem
    require_name(name)
    require_writable(models_dir / name)
    if tokenizer is None and model.suffix != ".keras":
        raise TokenizerError(f"--tokenizer is missing: only a .keras file can have the tokenizer in it, got {model}")
    imported_tokenizer = read_tokenizer(tokenizer or model)
    echo(f"{tokenizer or model}: {_describe(imported_tokenizer)}")
    imported, lines = read_imported(model, context_length)
    for line in lines:
        echo(line)
    num_unused = imported.network.vocab_size - len(imported_tokenizer.tokens)
    if num_unused > 0:
        echo(f"{num_unused:,} of its outputs have no token and are never sampled")
    with deferred_interrupts():
        version_dir = publish(imported, imported_tokenizer, name, models_dir, direction=direction)
    echo(f"published {version_dir}")
    return 0


def _describe(tokenizer: Tokenizer) -> str:
    """Describe a tokenizer; for a Keras layer, also its standardization, inferred from the vocabulary."""
    described = f"{tokenizer.unit}, {len(tokenizer.tokens):,} tokens"
    rules = tokenizer.rules if isinstance(tokenizer, WordTokenizer) else tokenizer
    if not isinstance(rules, CharacterTokenizer | WhitespaceRules) or rules.standardization == Standardization():
        return described
    lower, strip = rules.standardization.lower, rules.standardization.strip_punctuation
    steps = [*(["lower-cases A to Z"] if lower else []), *(["drops punctuation"] if strip else [])]
    return f"{described}, {' and '.join(steps)}"
