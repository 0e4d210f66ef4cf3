"""Entry point of `python -m export`."""

from export.interrupts import exit_on_signals

if __name__ == "__main__":
    exit_on_signals()
    from export.cli import program

    program()
