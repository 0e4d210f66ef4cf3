"""Constraints on generated text: patterns, and their compilation to automata over a model's tokens.

`patterns` turns every kind of constraint into a regular expression; `automata` builds the automaton; `compiler` runs in
a process of its own, which `compilation` starts and limits.
"""
