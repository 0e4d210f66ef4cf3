"""The commands of `ostinato`, one module each."""
