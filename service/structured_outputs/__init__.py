"""Structured outputs: constraints on generated text, and their compilation to automata over a model's tokens.

`patterns` turns every kind of constraint into a regular expression; `automata` builds the automaton; `compiler_process`
is a process of its own, which `compiler_pool` starts and limits.
"""
