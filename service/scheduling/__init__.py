"""Which sequence is computed when, and with which others: no text, no HTTP, no gRPC."""
