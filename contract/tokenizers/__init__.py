"""One tokenizer per module: characters, words, exact words, subwords, regular expressions, imported ones.

The shared base is in `base`. The public interface is `contract.tokenizer`.
"""
