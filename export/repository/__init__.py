"""The model repository: how a version gets into it, what is said about versions, and how they leave it."""
