"""Generation for one request: prompts, text deltas, log probabilities and resume tokens."""
