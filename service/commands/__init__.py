"""`python -m service COMMAND`: one module for each command."""
