"""Detection of the special tokens of an imported tokenizer: start, end, padding and unknown.

They are identified by the file's post-processor, by its model, and by their usual names.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from contract.errors import TokenizerError
from contract.tokenizers.base import SpecialIds

if TYPE_CHECKING:
    import tokenizers

_PADDING = ("<pad>", "[pad]", "<|pad|>", "<|padding|>", "<|finetune_right_pad_id|>")
_UNKNOWN = ("<unk>", "[unk]", "<|unk|>", "<oov>", "[oov]")
_START = (
    *("<s>", "<start>", "<bos>", "<sos>", "[bos]", "[sos]", "[start]"),
    *("<|startoftext|>", "<|begin_of_text|>", "<|bos|>", "[cls]"),
)
_END = (
    *("</s>", "<end>", "<eos>", "[eos]", "[end]", "<|endoftext|>", "<|end_of_text|>", "<|eos|>"),
    *("<|end|>", "[sep]"),
)


@dataclass(frozen=True)
class OrdinaryStart(SpecialIds):
    """Special ids of a vocabulary without special tokens: sequences start from an ordinary token, which is sampled."""

    @property
    def never_sampled(self) -> tuple[int, ...]:
        """Nothing: every id may be sampled."""
        return ()


def find_special_tokens(
    library: "tokenizers.Tokenizer", model: Mapping[str, Any], tokens: Sequence[str]
) -> tuple[SpecialIds, set[int]]:
    """Return the special ids, and all ids without text: those that the file marks as special, and the unknown one.

    Raises:
        TokenizerError: the model has no valid unknown token, so some text could not be encoded.
    """
    special = {token.content.lower(): i for i, token in library.get_added_tokens_decoder().items() if token.special}
    unknown, (before, after) = _unknown_id(model), _frame(library, tokens)
    unknown = _find_by_name(_UNKNOWN, special) if unknown is None else unknown
    padding = _find_by_name(_PADDING, special)
    end = after if after is not None else _find_by_name(_END, special)
    start = before if before is not None else _find_by_name(_START, special)
    # Missing special tokens fall back to another one.
    candidates = [i for i in (start, end, padding, unknown) if i is not None]
    if not candidates:
        ordinary = tokens.index("Ċ") if "Ċ" in tokens else 0
        return OrdinaryStart(ordinary, ordinary, ordinary, None), set()
    fallback = padding if padding is not None else candidates[0]
    textless = {*special.values()} | {i for i in (unknown, before, after) if i is not None}
    unknown = fallback if unknown is None else unknown
    return SpecialIds(padding=fallback, unknown=unknown, start=candidates[0], end=end), textless


def _find_by_name(names: Iterable[str], special: Mapping[str, int]) -> int | None:
    return next((special[name] for name in names if name in special), None)


def _unknown_id(model: Mapping[str, Any]) -> int | None:
    """Return the model's id for unknown text; None if the model drops it.

    Raises:
        TokenizerError: the model neither has such an id nor drops unknown text: encoding would fail.
    """
    kind, name = model["type"], model.get("unk_token")
    if kind == "Unigram":
        if model.get("unk_id") is None:
            raise TokenizerError("a Unigram model needs unk_id: without it, an unknown character has no id")
        return int(model["unk_id"])
    if name is None and kind == "BPE":
        return None
    if name not in model["vocab"]:
        raise TokenizerError(f"unk_token {name!r} of the {kind} model is not in its vocabulary: unknown text has no id")
    return int(model["vocab"][name])


def _frame(library: "tokenizers.Tokenizer", tokens: Sequence[str]) -> tuple[int | None, int | None]:
    """Return the ids that the file's post-processor adds before and after a text; None where it adds none."""
    for text in ("a", *(library.decode([i]) for i in range(min(100, len(tokens))))):
        encoding = library.encode(text)
        inside = [position for position, is_special in enumerate(encoding.special_tokens_mask) if not is_special]
        if inside:
            ids = encoding.ids
            return (ids[0] if inside[0] else None), (ids[-1] if inside[-1] < len(ids) - 1 else None)
    return None, None
