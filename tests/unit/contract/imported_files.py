"""Tokenizers trained with Hugging Face's library, by name, as imported models bring them."""

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from tests.unit.contract.scripts import ALL

_BYTES = {"initial_alphabet": pre_tokenizers.ByteLevel.alphabet()}


def _train(model, pre_tokenizer, decoder, trainer, normalizer=None):
    library = Tokenizer(model)
    library.pre_tokenizer = pre_tokenizer
    if decoder is not None:
        library.decoder = decoder
    if normalizer is not None:
        library.normalizer = normalizer
    library.train_from_iterator([ALL] * 4, trainer)
    return library


def _gpt2():
    """As in GPT-2, with tokens added later, and with truncation and padding turned on."""
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=["<|endoftext|>"], show_progress=False, **_BYTES)
    library = _train(models.BPE(), pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel(), trainer)
    library.post_processor = processors.ByteLevel(trim_offsets=True)
    library.add_tokens(["日本", "ünï", "Ġzz"])
    library.add_special_tokens(["<|im_start|>"])
    library.enable_truncation(5)
    library.enable_padding(length=9)
    return library


def _bytes_without_marks():
    pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False)
    trainer = trainers.BpeTrainer(vocab_size=400, show_progress=False, **_BYTES)
    return _train(models.BPE(dropout=0.5), pre_tokenizer, decoders.ByteLevel(), trainer)


def _words():
    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordLevelTrainer(special_tokens=marks, show_progress=False)
    model = models.WordLevel(unk_token="[UNK]")
    library = _train(model, pre_tokenizers.Whitespace(), None, trainer, normalizers.Lowercase())
    special = [("[CLS]", 2), ("[SEP]", 3)]
    library.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=special)
    return library


def _pairs():
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<UNK>", "<PAD>"], show_progress=False)
    return _train(models.BPE(unk_token="<UNK>"), pre_tokenizers.Whitespace(), None, trainer)


def _pairs_with_suffix():
    suffix = {"end_of_word_suffix": "</w>"}
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<unk>"], show_progress=False, **suffix)
    model = models.BPE(unk_token="<unk>", **suffix)
    return _train(model, pre_tokenizers.Whitespace(), decoders.BPEDecoder("</w>"), trainer)


def _word_pieces():
    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    trainer = trainers.WordPieceTrainer(vocab_size=400, special_tokens=marks, show_progress=False)
    model, cut = models.WordPiece(unk_token="[UNK]"), pre_tokenizers.BertPreTokenizer()
    return _train(model, cut, decoders.WordPiece(), trainer, normalizers.BertNormalizer())


def _unigram():
    marks = ["<pad>", "<unk>", "<s>", "</s>"]
    trainer = trainers.UnigramTrainer(vocab_size=300, unk_token="<unk>", special_tokens=marks, show_progress=False)
    model, cut = models.Unigram(), pre_tokenizers.Metaspace()
    return _train(model, cut, decoders.Metaspace(), trainer, normalizers.NFKC())


def _fused():
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<eos>"], show_progress=False)
    return _train(models.BPE(), pre_tokenizers.Split(" ", "isolated"), decoders.Fuse(), trainer)


MADE = {
    "GPT-2": _gpt2(),
    "bytes without marks": _bytes_without_marks(),
    "words": _words(),
    "pairs": _pairs(),
    "pairs with suffix": _pairs_with_suffix(),
    "word pieces": _word_pieces(),
    "unigram": _unigram(),
    "fused": _fused(),
}
