"""Which tokens of a tokenizer from elsewhere are marks: what begins or ends a text, fills rows, or is the unknown.

They are told by what the file puts around a text, by its model, and by the names that are in use.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from contract.errors import TokenizerError
from contract.tokenizers.vocabulary import SpecialIds

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
    """Of a vocabulary in which no token is special: the text begins from an ordinary one, which may be drawn."""

    @property
    def never_drawn(self) -> tuple[int, ...]:
        """None is kept from being drawn."""
        return ()


def find_special_tokens(
    library: "tokenizers.Tokenizer", model: Mapping[str, Any], tokens: Sequence[str]
) -> tuple[SpecialIds, set[int]]:
    """Return the special ids, and all ids that have no text: those that the file calls special, and the unknown one.

    Raises:
        TokenizerError: a text can hold what has no id: the model's token for it is none.
    """
    special = {token.content.lower(): i for i, token in library.get_added_tokens_decoder().items() if token.special}
    unknown, (before, after) = _unknown_id(model), _frame(library, tokens)
    unknown = _named(_UNKNOWN, special) if unknown is None else unknown
    padding = _named(_PADDING, special)
    end = after if after is not None else _named(_END, special)
    start = before if before is not None else _named(_START, special)
    # Where one is missing, the next best stands for it.
    known = [i for i in (start, end, padding, unknown) if i is not None]
    if not known:
        ordinary = tokens.index("Ċ") if "Ċ" in tokens else 0
        return OrdinaryStart(ordinary, ordinary, ordinary, None), set()
    fallback = padding if padding is not None else known[0]
    silent = {*special.values()} | {i for i in (unknown, before, after) if i is not None}
    return (
        SpecialIds(
            padding=fallback,
            unknown=fallback if unknown is None else unknown,
            start=known[0],
            end=end,
        ),
        silent,
    )


def _named(names: Iterable[str], special: Mapping[str, int]) -> int | None:
    return next((special[name] for name in names if name in special), None)


def _unknown_id(model: Mapping[str, Any]) -> int | None:
    """Return the id that the model itself gives to what it does not hold; None where it drops that.

    Raises:
        TokenizerError: it gives none, and does not drop it either: encoding would fail.
    """
    kind, name = model["type"], model.get("unk_token")
    if kind == "Unigram":
        if model.get("unk_id") is None:
            raise TokenizerError("a Unigram model needs unk_id: a character that it does not hold has no id else")
        return int(model["unk_id"])
    if name is None and kind == "BPE":
        return None
    if name not in model["vocab"]:
        raise TokenizerError(f"unk_token {name!r} of the {kind} model is not in its vocabulary: unknown text has no id")
    return int(model["vocab"][name])


def _frame(library: "tokenizers.Tokenizer", tokens: Sequence[str]) -> tuple[int | None, int | None]:
    """Return the ids that the file's post-processor puts before and behind a text; None where it puts none."""
    for text in ("a", *(library.decode([i]) for i in range(min(100, len(tokens))))):
        encoding = library.encode(text)
        inside = [place for place, is_mark in enumerate(encoding.special_tokens_mask) if not is_mark]
        if inside:
            ids = encoding.ids
            return (ids[0] if inside[0] else None), (ids[-1] if inside[-1] < len(ids) - 1 else None)
    return None, None
