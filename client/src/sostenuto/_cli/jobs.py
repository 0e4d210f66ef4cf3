"""`sostenuto jobs`: list, follow, cancel, pause and resume the training jobs of a server."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import click

from sostenuto import Job
from sostenuto._cli.job_display import command, follow
from sostenuto._cli.options import connect, server_options
from sostenuto._cli.terminal import on_one_line, print_table, write_json, write_text
from sostenuto._concurrency import clock

HEADINGS = ("id", "status", "from", "model", "created", "time left")

EPILOG = """\
\b
Examples:
  sostenuto jobs
  sostenuto jobs events ftjob-5e1c21f3cc2e8b0e5d3a7c6f
  sostenuto jobs --json --limit 1 | jq -r .id"""

json_option = click.option("--json", "as_json", is_flag=True, help="Print the server's JSON objects, one per line.")
job_argument = click.argument("job_id", metavar="ID")


@click.group(epilog=EPILOG, invoke_without_command=True, short_help="List, follow and cancel training jobs.")
@click.option("-n", "--limit", type=click.IntRange(min=1), default=20, metavar="N", help="Maximum number of jobs.")
@json_option
@server_options
@click.pass_context
def jobs(context: click.Context, *, limit: int, as_json: bool) -> None:
    """List the training jobs of the server, newest first. The commands below follow and control one of them.

    The column `from` has the recipe, or the model that is fine-tuned.
    """
    if context.invoked_subcommand is not None:
        return
    with connect() as client:
        listed = client.jobs(limit=limit)
    if as_json:
        for job in listed:
            write_json(job.raw)
        return
    rows = [
        (job.id, job.status, job.model, _trained(job), _local_time(job.created_at), _time_left(job)) for job in listed
    ]
    print_table(HEADINGS, rows)


def _trained(job: Job) -> str | None:
    """Return the version that a job has trained, or, until it ends, the name that the model will have."""
    if job.fine_tuned_model is not None:
        return f"{job.fine_tuned_model}:{job.version}"
    return None if job.has_ended else job.raw.get("user_provided_suffix")


def _time_left(job: Job) -> str | None:
    return None if job.seconds_left is None else clock(job.seconds_left)


def _local_time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S")


@jobs.command(short_help="Show a job.")
@job_argument
@json_option
@server_options
def show(job_id: str, *, as_json: bool) -> None:
    """Show the job ID: its status, model, files and settings."""
    with connect() as client:
        job = client.job(job_id)
    if as_json:
        return write_json(job.raw)
    facts = {
        "id": job.id,
        "status": job.status,
        "error": job.error,
        "from": job.model,
        "model": _trained(job),
        "created": _local_time(job.created_at),
        "finished": None if job.finished_at is None else _local_time(job.finished_at),
        "time left": _time_left(job),
        "trained tokens": None if job.trained_tokens is None else f"{job.trained_tokens:,}",
        "training file": job.training_file,
        "validation file": job.validation_file,
        **job.settings,
    }
    shown = {name: on_one_line(str(value)) for name, value in facts.items() if value is not None}
    width = max(map(len, shown))
    return write_text("".join(f"{name:{width}}  {value}\n" for name, value in shown.items()))


@jobs.command(short_help="Follow a job until it ends.")
@job_argument
@json_option
@server_options
def events(job_id: str, *, as_json: bool) -> None:
    """Show the events of the job ID from its beginning, and follow it until it ends. Ctrl-C leaves it running."""
    with connect() as client:
        job = client.job(job_id)
        if not as_json:
            return follow(job)
        with job.events() as found:
            for event in found:
                write_json(event.raw)
        job.refresh().raise_for_status()
    return None


@jobs.command()
@job_argument
@server_options
def cancel(job_id: str) -> None:
    """Cancel the job ID. One that runs stops after its current step."""
    _act(job_id, Job.cancel)


@jobs.command()
@job_argument
@server_options
def pause(job_id: str) -> None:
    """Pause the job ID, which keeps its complete epochs."""
    job = _act(job_id, Job.pause)
    write_text(f"resume it:\n  {command('jobs', 'resume', job.id)}\n")


@jobs.command()
@job_argument
@server_options
def resume(job_id: str) -> None:
    """Queue the paused job ID again, which continues after its last complete epoch."""
    _act(job_id, Job.resume)


def _act(job_id: str, action: Callable[[Job], Any]) -> Job:
    with connect() as client:
        job = client.job(job_id)
        action(job)
    # One that runs stops a moment later; one that is resumed may run already.
    is_stopping = job.status == "running" and action is not Job.resume
    write_text(f"{job.id}: {'stops after its current step' if is_stopping else job.status}\n")
    return job
