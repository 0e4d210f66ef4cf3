"""HTTP: what answers an address, what happens around every request, and the JSON and events that come back."""
