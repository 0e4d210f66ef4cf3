"""The model servers: which there are, what they serve and promise, and the calls made to them."""
