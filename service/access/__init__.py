"""Authentication by API key, and rate limits."""
