"""One tokenizer per module: characters, words by Keras's rules, exact words, subwords and imported tokenizers.

The shared base is in `base`. The public interface is `contract.tokenizer`.
"""
