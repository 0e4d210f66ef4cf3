"""`python -m jobs`: run a trainer."""

from jobs.cli import trainer

if __name__ == "__main__":
    trainer(prog_name="python -m jobs")
