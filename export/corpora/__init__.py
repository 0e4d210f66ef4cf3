"""Texts: where they come from, how they are decoded and parted, and how they become token ids in a file."""
