"""`sostenuto trainer`, and `python -m jobs` in containers."""

import functools
import logging
import os
import signal
from pathlib import Path
from types import FrameType
from typing import Any

import click

from contract.audit import VARIABLE as AUDIT_VARIABLE
from jobs.database import CannotOpen, database_url
from jobs.executor import Executor
from jobs.launchers.kubernetes import Api, KubernetesLauncher
from jobs.launchers.launcher import Launcher, LauncherError
from jobs.launchers.process import ProcessLauncher
from jobs.launchers.ray import RayLauncher
from jobs.quotas import DAY_S
from jobs.store import JobStore
from jobs.trainer import MAX_MEMORY_BYTES, Trainer

_PATH = click.Path(path_type=Path, file_okay=False)


_option = functools.partial(click.option, show_envvar=True)


@click.command("trainer", context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@_option(
    "--training-dir",
    type=_PATH,
    default=Path("training"),
    envvar="SOSTENUTO_TRAINING_DIR",
    metavar="DIR",
    help="Directory of uploaded files and runs, which gateways share.",
)
@_option(
    "--models-dir",
    type=_PATH,
    default=Path("models"),
    envvar="SOSTENUTO_MODELS_DIR",
    metavar="DIR",
    help="Model repository.",
)
@_option(
    "--database",
    envvar="SOSTENUTO_TRAINING_DATABASE",
    metavar="URL",
    help="SQLAlchemy URL of the job database.  [default: jobs.sqlite in the training directory]",
)
@_option(
    "--audit-file",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="SOSTENUTO_AUDIT_FILE",
    metavar="FILE",
    help="File to which publications and changes of models are appended, as JSON Lines.",
)
@_option(
    "--max-file-age-s",
    type=click.FloatRange(min=0, min_open=True),
    default=2_592_000.0,
    envvar="SOSTENUTO_MAX_FILE_AGE_S",
    metavar="SECONDS",
    help="Delete uploaded files after this time, unless a job that has not ended needs them.",
)
@_option(
    "--max-job-age-s",
    type=click.FloatRange(min=DAY_S),
    default=7_776_000.0,
    envvar="SOSTENUTO_MAX_JOB_AGE_S",
    metavar="SECONDS",
    help="Delete jobs and their events this long after their end; the versions that they have published stay.",
)
@_option(
    "--max-memory-bytes",
    type=click.IntRange(min=2**30),
    default=MAX_MEMORY_BYTES,
    envvar="SOSTENUTO_MAX_TRAINING_BYTES",
    metavar="BYTES",
    help="Maximum memory of a training; a job that takes more fails. With kubernetes, the PodTemplate's limit instead; "
    "with ray, what it reserves.",
)
@_option(
    "--launcher",
    type=click.Choice(["process", "kubernetes", "ray"]),
    default="process",
    envvar="SOSTENUTO_LAUNCHER",
    help="Where trainings run: as child processes, as Jobs of the Kubernetes cluster that this program runs in, or as "
    "jobs of a Ray cluster. Beyond this machine the directories must be on a shared file system, at the same paths.",
)
@_option(
    "--pod-template",
    default="training",
    envvar="SOSTENUTO_POD_TEMPLATE",
    metavar="NAME",
    help="Kubernetes: PodTemplate of the Jobs' pods, in the namespace of this program's pod.",
)
@_option(
    "--kueue-queue",
    envvar="SOSTENUTO_KUEUE_QUEUE",
    metavar="NAME",
    help="Kubernetes: LocalQueue of Kueue, which admits the Jobs.  [default: none; Jobs start at once]",
)
@_option(
    "--ray-url",
    default="http://127.0.0.1:8265",
    envvar="SOSTENUTO_RAY_URL",
    metavar="URL",
    help="Ray: address of the dashboard, which has the REST API of Ray Jobs. RAY_AUTH_TOKEN is its token, if it needs "
    "one.",
)
@_option(
    "--ray-cpus",
    type=click.FloatRange(min=0),
    default=2.0,
    envvar="SOSTENUTO_RAY_CPUS",
    metavar="NUMBER",
    help="Ray: CPUs that a training reserves.",
)
def trainer(
    training_dir: Path,
    models_dir: Path,
    database: str | None,
    audit_file: Path | None,
    max_file_age_s: float,
    max_job_age_s: float,
    max_memory_bytes: int,
    **launcher: Any,
) -> None:
    """Run the training jobs that clients submit to the gateway, one at a time, until SIGTERM.

    Beside the jobs it executes what they ask of the models: it moves labels, splits traffic and removes versions.

    `sostenuto serve` starts a trainer of its own. Several trainers may share a directory and a database.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s trainer: %(message)s")
    try:
        store = JobStore(database or database_url(training_dir))
    except CannotOpen as error:
        raise click.ClickException(str(error)) from error
    models_dir = models_dir.resolve()
    running = Trainer(
        store,
        training_dir.resolve(),
        models_dir,
        max_file_age_s=max_file_age_s,
        max_job_age_s=max_job_age_s,
        max_memory_bytes=max_memory_bytes,
        launcher=_launcher(**launcher),
    )

    def stop(_number: int, _frame: FrameType | None) -> None:
        running.is_stopping = True

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    if audit_file is not None:
        # Absolute, for exporters in directories of their own.
        os.environ[AUDIT_VARIABLE] = str(audit_file.resolve())
    executor = Executor(store.operations, models_dir)
    executor.start()
    running.run()
    executor.stop()


def _launcher(launcher: str, pod_template: str, kueue_queue: str | None, ray_url: str, ray_cpus: float) -> Launcher:
    if launcher == "kubernetes":
        try:
            return KubernetesLauncher(Api.of_pod(), pod_template, kueue_queue)
        except LauncherError as error:
            raise click.UsageError(f"--launcher kubernetes: {error}") from error
    return RayLauncher(ray_url, ray_cpus) if launcher == "ray" else ProcessLauncher()
