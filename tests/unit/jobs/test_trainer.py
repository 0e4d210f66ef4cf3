"""The trainer runs the exporter for one job after another, and a job is published once, whatever is killed."""

import io
import json
import re
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import update

from export.child_process import train_options
from jobs import trainer as module
from jobs.database import Job, StoredFile
from jobs.launchers.launcher import Exit, Run
from jobs.settings import ALLOWED, RECIPES, ConfigError, check_settings, model_option
from jobs.trainer import ProgressReader, Trainer
from jobs.uploads import Uploads
from tests.databases import DATABASES
from tests.unit.jobs.place import AGES
from tests.waiting import until

# The other tests run in SQLite alone: the store's own run in each.
in_each_database = pytest.mark.parametrize("place", DATABASES, indirect=True)


def test_a_job_is_trained_and_published(place):
    job = place.train(settings={"seed": 5, "units": 16, "training_filter": False, "vocab_size": None})
    assert (job.status, job.version, job.trained_tokens) == ("succeeded", 1, 10)
    command, text, *options = place.versions["1"]["argv"]
    assert (command, text) == ("train", "text/book.txt")
    assert {"--config=characters-3-minutes", "--seed=5", "--units=16", "--no-training-filter"} < set(options)
    assert not any(option.startswith("--vocab-size") for option in options)
    messages = [event.message for event in place.epochs(job.id)]
    assert messages == [
        f"epoch {number}: training loss 2.000, validation loss 2.100, best so far" for number in (1, 2, 3)
    ]
    until(lambda: list((place.training / "jobs").iterdir()) == [])


@pytest.mark.parametrize(("settings", "rate"), [({"seed": 3}, 0.008), ({"learning_rate": 0.3}, 0.3)])
def test_a_multiplier_applies_to_the_learning_rate_for_the_text(place, settings, rate):
    """A short text is read often, for which the recipe has 0.004. The gateway has multiplied one that was given."""
    place.train(model="characters", settings=settings, hyperparameters={"learning_rate_multiplier": 2})
    assert f"--learning-rate={rate}" in place.versions["1"]["argv"]


def test_a_validation_file_is_passed_on(place):
    """In place of a fraction, which the exporter refuses beside it."""
    file_id = place.job(place.submit("held out", "other.txt")).training_file
    place.train(validation_file=file_id, suffix="x", settings={"validation": 0.2})
    option = "--validation-corpus=validation/other.txt"
    commands = [each["argv"] for each in place.versions.values() if option in each["argv"]]
    assert (len(commands), "--validation=0.2" in commands[0]) == (1, False)


@pytest.mark.parametrize(
    ("text", "filename", "code", "message"),
    [
        ("fail", "a.txt", "training_failed", "the corpus is too short"),
        ("no zip", "a.zip", "invalid_training_file", "a.zip: the archive cannot be unpacked"),
    ],
)
def test_a_job_that_fails_says_why(place, text, filename, code, message):
    job_id, next_id = place.submit(text, filename), place.submit("text")
    place.go_on()
    place.start()
    job = place.wait(job_id, "failed", "succeeded")
    assert job.error["code"] == code
    assert message in job.error["message"]
    assert place.wait(next_id, "succeeded", "failed").status == "succeeded"


def test_a_cancelled_job_stops_and_leaves_nothing(place):
    job_id = place.begin()
    place.store.request("", job_id, "cancel")
    assert place.wait(job_id, "cancelled").version is None
    until(lambda: list((place.training / "jobs").iterdir()) == [])
    assert place.versions == {}


def test_a_paused_job_resumes_after_its_last_epoch(place):
    job_id = place.begin()
    place.store.request("", job_id, "pause")
    place.wait(job_id, "paused")
    place.go_on()
    place.store.request("", job_id, "resume")
    assert place.wait(job_id, "succeeded").version == 1
    assert [event.data["epoch"] for event in place.epochs(job_id)] == [1, 2, 3]


def test_the_time_limit_holds_for_all_attempts_of_a_job(place):
    """Otherwise a job that is paused and resumed again and again would train without a limit."""
    job_id = place.submit("text")
    with place.store._engine.begin() as connection:
        connection.execute(update(Job).values(trained_s=86_400.0))
    place.start()
    assert "longer than twice its max_minutes" in place.wait(job_id, "failed", "succeeded").error["message"]


def test_the_last_update_of_an_earlier_attempt_is_not_reported_again(tmp_path):
    """It says when that attempt would have ended."""
    path = tmp_path / "progress.jsonl"
    old = {"event": "update", "epoch": 2, "train_loss": 2.0, "tokens": 10, "seconds_left": 5.0}
    path.write_text(json.dumps(old) + "\n")
    progress = ProgressReader(path, last_epoch=1)
    assert list(progress.events()) == []
    assert (progress.last_update["tokens"], progress.estimated_finish) == (10, None)
    with path.open("a") as file:
        file.write(json.dumps({**old, "tokens": 11}) + "\n")
    ((message, data),) = progress.events()
    assert (message, data["tokens"]) == ("epoch 2: training loss 2.000", 11)
    assert progress.estimated_finish > time.time()


def test_a_trainer_that_stops_leaves_its_job_to_the_next(place):
    job_id = place.begin()
    place.stop()
    assert place.job(job_id).status == "queued"
    place.go_on()
    place.start()
    assert place.wait(job_id, "succeeded").version == 1


@in_each_database
def test_a_killed_trainer_is_replaced_and_its_job_published_once(place):
    job_id = place.submit("once")
    place.go_on()
    killed = place.start_process()
    assert killed.wait(60) == -9
    assert place.job(job_id).status == "running"
    place.start()
    job = place.wait(job_id, "succeeded", "failed")
    assert (job.status, job.attempt) == ("succeeded", 2)
    assert list(place.versions) == ["1"]
    assert [event.data["epoch"] for event in place.epochs(job_id)] == [1, 2, 3]


@pytest.mark.parametrize("method", ["claim", "renew", "end"])
def test_a_database_that_is_away_for_a_while_fails_no_job(place, monkeypatch, method):
    failures = place.lose_database(monkeypatch, method, times=2)
    job = place.train()
    assert (job.status, failures) == ("succeeded", [])
    assert list(place.versions) == ["1"]
    assert [event.data["epoch"] for event in place.epochs(job.id)] == [1, 2, 3]


def test_a_trainer_that_has_lost_a_job_leaves_its_directory(place):
    """The other trainer still lists the version that the job has published."""
    job_id = place.submit("text")
    lost = place.store.claim(0.0)
    card = place.models / "book/1/assets.extra/generator.json"
    card.parent.mkdir(parents=True)
    card.write_text(json.dumps({"training": {"settings": {"job": job_id}}}))
    assert place.store.claim(60.0).attempt == 2
    Trainer(place.store, place.training, place.models, **AGES)._run(lost)
    assert place.job(job_id).status == "running"
    assert (place.training / "jobs" / job_id).is_dir()


@in_each_database
def test_two_trainers_share_the_jobs(place):
    job_ids = [place.submit(f"text {number}") for number in range(6)]
    # On a busy machine a shorter lease may be lost.
    trainers = [place.start_process(lease_s=60.0) for _ in range(2)]
    until(lambda: [place.job(job_id).status for job_id in job_ids].count("running") == 2, timeout=60)
    place.go_on()
    jobs = [place.wait(job_id, "succeeded", "failed") for job_id in job_ids]
    for trainer in trainers:
        trainer.kill()
        trainer.wait()
    assert [(job.status, job.attempt) for job in jobs] == [("succeeded", 1)] * 6
    assert sorted(job.version for job in jobs) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(("text", "name"), [("kills", "SIGKILL"), ("terms", "SIGTERM")])
def test_a_killed_exporter_is_replaced_as_long_as_it_completes_epochs(place, text, name):
    """SIGTERM is from systemd, which stops all processes of a service at once, or from a guard of the memory."""
    job = place.train(text)
    assert (job.status, job.attempt) == ("succeeded", 1)
    assert list(place.versions) == ["1"]
    assert [event.data["epoch"] for event in place.epochs(job.id)] == [1, 2, 3]
    warnings = [event.message for event in place.store.list_events(job.id, 0, 100) if event.level == "warn"]
    assert warnings == [f"the training was killed by {name}; it continues after its last epoch"] * 3


def test_a_failure_without_an_error_output_is_named_by_its_exit_code(place, monkeypatch):
    monkeypatch.setattr(module, "ERRORS", "missing.txt")
    assert place.wait_for_failure("fail") == "the training exited with code 1"


def test_an_exporter_that_is_killed_without_an_epoch_is_replaced_twice(place):
    message = place.wait_for_failure("crash")
    assert message == "the training was killed by SIGKILL; it may have run out of memory"
    assert (place.models / "crashes").read_text() == "x" * module.MAX_KILLS == "xxx"


def test_a_training_that_takes_too_much_memory_is_killed(place):
    place.max_memory_bytes = 2**20
    message = place.wait_for_failure("text")
    assert re.fullmatch(
        r"the training may take at most 1048576 bytes of memory, got \d{7,}; choose smaller .*", message
    )
    assert list(place.versions) == []


def test_the_kernel_would_kill_a_training_first(place):
    command = ["pgrep", "-f", f"fake_exporter.*--job {place.begin()}"]
    (child,) = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert Path(f"/proc/{child}/oom_score_adj").read_text() == "1000\n"
    assert Path(f"/proc/{child}/stat").read_text().rpartition(") ")[2].split()[16] == "19"


def test_a_version_whose_exporter_was_killed_is_listed(place):
    (place.models / "kill-listing").touch()
    assert place.train("unlisted").status == "succeeded"
    assert (place.models / "listed").read_text() == "book\n" * 2
    assert list(place.versions) == ["1"]


@pytest.mark.parametrize("code", [None, -9])
def test_a_version_whose_pod_was_killed_is_listed(place, code):
    """The cluster does not say whether the exporter had listed it."""

    class Pod(Run):
        end = None

        def poll(self):
            return self.end

        def stop(self):
            publish_unlisted(place.models / "book/1", job_id)
            self.end = Exit(code)

        kill = stop

    place.launcher = SimpleNamespace(outlives_trainer=True, find=lambda _: None, start=lambda _: Pod())
    job_id = place.submit("text")
    place.start()
    place.wait(job_id, "running")
    place.store.request("", job_id, "cancel")
    assert place.wait(job_id, "succeeded", "cancelled").status == "succeeded"
    assert (place.models / "listed").read_text() == "book\n"


def publish_unlisted(version, job_id):
    card = version / "assets.extra/generator.json"
    card.parent.mkdir(parents=True)
    card.write_text(json.dumps({"training": {"settings": {"job": job_id}}}))


def clean(place, max_age_s):
    Trainer(place.store, place.training, place.models, max_file_age_s=86_400, max_job_age_s=max_age_s)._clean()


def test_old_files_and_leftovers_are_deleted(place):
    place.submit("text")
    (place.training / "jobs/ftjob-unknown").mkdir(parents=True)
    old = StoredFile(id="file-old", tenant="", filename="old.txt", bytes=1, created_at=1000)
    place.store.add_file(old, 10**9)
    Uploads(place.training / "files").write("file-old", io.BytesIO(b"x"))
    clean(place, 86_400)
    assert place.store.file("", "file-old") is None
    assert not (place.training / "jobs/ftjob-unknown").exists()
    assert len(place.store.file_ids()) == 1


def test_old_jobs_are_deleted_and_their_versions_stay(place):
    job_id = place.train().id
    clean(place, 1e9)
    assert place.job(job_id) is not None
    clean(place, 0.0)
    assert place.job(job_id) is None
    assert list(place.versions) == ["1"]


def test_no_setting_of_a_job_names_a_file_of_the_machine():
    assert not {name for name in ALLOWED if name.endswith(("corpus", "init", "dir", "file")) or name in ("base", "mix")}


@pytest.mark.parametrize("model", [*RECIPES, "base:1"])
def test_the_settings_of_every_recipe_and_base_can_be_checked(model):
    assert check_settings(model, {"seed": 3}).seed == 3
    assert model_option(model) == (f"--config={model}" if model in RECIPES else "--from=base:1")


@pytest.mark.parametrize("given", ["smiles", ["smiles"], ("smiles", "fields")], ids=str)
@pytest.mark.parametrize("model", ["characters", "base:1"])
def test_a_job_may_have_presets_of_regular_expressions(model, given):
    config = check_settings(model, {"token_regex": given})
    names = [given] if isinstance(given, str) else list(given)
    assert (config.token_regex, config.token_unit) == (tuple(names), "regex")
    assert train_options({"token_regex": given}) == [f"--token-regex={name}" for name in names]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"units": 0}, "units: .*greater than or equal to 1, got 0"),
        ({"embedding_init": "/etc/passwd"}, "not a setting of a job"),
        ({"token_regex": ["smiles", "(a+)+b"]}, r"token_regex must be smiles, abc, fields in a job, got '\(a\+\)\+b'"),
        ({"token_regex": "a("}, r"got 'a\('.* may take exponential time"),
        ({"token_regex": [["smiles"]]}, r"got \['smiles'\]"),
        ({"token_regex": 5}, "got 5"),
        ({"learning_rate": None}, "learning_rate must not be null, as the recipe has 0.01"),
        ({"token_regex": {"a": 1}}, "got {'a': 1}"),
    ],
)
def test_a_wrong_setting_is_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        check_settings("characters", settings)
