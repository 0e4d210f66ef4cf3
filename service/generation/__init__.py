"""Generation for one request: prompts, events, text deltas, log probabilities and resume tokens."""
