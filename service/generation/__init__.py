"""One request's texts: from prompts and events to pieces, log probabilities and states that can be kept."""
