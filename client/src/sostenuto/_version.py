"""The version of this package: the single source of truth."""

__version__ = "0.1.0"
