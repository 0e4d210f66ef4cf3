"""`python -m service.batch`: answers a file of requests by HTTP from a running gateway.

Knows OpenAI's lines of a batch and HTTP. It is a client of the gateway and knows nothing of its insides.
"""
