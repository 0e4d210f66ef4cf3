"""One module for each command of `ostinato`."""
