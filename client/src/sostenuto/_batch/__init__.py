"""`sostenuto batch`: sends a file of requests to a gateway and writes a file of responses, in OpenAI's batch format."""
