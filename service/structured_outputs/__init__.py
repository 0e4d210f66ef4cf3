"""Structured outputs: constraints on generated text, and their compilation to automata over a model's tokens.

`patterns` turns every kind of constraint into a regular expression; `automata` builds the automaton in a separate
process (`compiler_process`), which `compiler_pool` starts and limits.
"""
