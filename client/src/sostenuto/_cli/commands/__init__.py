"""The commands of `sostenuto`, one module each."""
