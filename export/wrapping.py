"""`python -m export wrap`: a model from elsewhere and its tokenizer become a version."""

from pathlib import Path

from contract.card import Direction
from export.graphs.imported_model import read_imported
from export.imported_tokenizer import read_tokenizer
from export.layout import say
from export.repository.publishing import publish_exportable, require_name, require_writable


def wrap(model: Path, tokenizer: Path, name: str, window: int | None, direction: Direction, models_dir: Path) -> int:
    """Publish a model that was trained elsewhere. Returns the exit code.

    Args:
        model: A `.keras` or `.h5` file, or the folder of a SavedModel.
        tokenizer: Keras's JSON or a `tokenizer.json`.
        name: Of the model in the repository.
        window: Tokens of its window; None where it carries its state, or has a length of its own.
        direction: "backward" for one that reads texts from their end.
        models_dir: The repository.

    Raises:
        ExportError, ContractError, OSError: each told in one line by the command line.
    """
    require_name(name)
    require_writable(models_dir / name)
    text_side = read_tokenizer(tokenizer)
    say(f"{tokenizer}: {text_side.unit}, {len(text_side.tokens):,} tokens")
    foreign = read_imported(model, window)
    for line in foreign.lines:
        say(line)
    surplus = foreign.model.network.vocab_size - len(text_side.tokens)
    if surplus > 0:
        say(f"{surplus:,} of its outputs have no token and are never drawn")
    place = publish_exportable(foreign.model, text_side, name, models_dir, None, direction)
    say(f"published {place}")
    return 0
