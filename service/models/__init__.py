"""Models: the registry of served versions, routing of requests to them, and their files in the model repository."""
