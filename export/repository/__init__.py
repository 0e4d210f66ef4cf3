"""The model repository: publishing, listing, comparing, verifying, promoting and removing versions."""
