"""Reports on generated records: validity, novelty, distributions and a classifier test, without a server."""
