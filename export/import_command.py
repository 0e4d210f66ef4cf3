"""`sostenuto import`: publishes an imported model and its tokenizer as a version."""

from pathlib import Path

from contract.card import Direction
from export.graphs.imported_model import read_imported
from export.imported_tokenizer import read_tokenizer
from export.repository.publishing import publish_exportable, require_name, require_writable
from export.terminal import echo


def import_model(
    model: Path, tokenizer: Path, name: str, context_length: int | None, direction: Direction, models_dir: Path
) -> int:
    """Publish an imported model. Returns the exit code.

    `context_length` is the number of tokens that a sliding-window model sees; None if the model carries state or has a
    fixed length.
    """
    require_name(name)
    require_writable(models_dir / name)
    imported_tokenizer = read_tokenizer(tokenizer)
    echo(f"{tokenizer}: {imported_tokenizer.unit}, {len(imported_tokenizer.tokens):,} tokens")
    imported = read_imported(model, context_length)
    for line in imported.lines:
        echo(line)
    num_unused = imported.model.network.vocab_size - len(imported_tokenizer.tokens)
    if num_unused > 0:
        echo(f"{num_unused:,} of its outputs have no token and are never sampled")
    version_dir = publish_exportable(imported.model, imported_tokenizer, name, models_dir, None, direction)
    echo(f"published {version_dir}")
    return 0
