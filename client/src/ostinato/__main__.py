"""`python -m ostinato`: the command line."""

from ostinato._cli import main

main()
