"""`python -m sostenuto`: the command line."""

from sostenuto._cli import main

main()
