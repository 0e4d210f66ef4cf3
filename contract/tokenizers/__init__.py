"""Units of text, a module each: characters, words by Keras's rules, exact words and subwords.

Their common part is in `vocabulary`. What the rest of the project uses is in `contract.tokenizer`.
"""
