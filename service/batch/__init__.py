"""`python -m service.batch`: sends a file of requests to a running gateway and writes a file of responses.

Knows OpenAI's batch format and HTTP. Does not know the gateway's internals: it is a client.
"""
