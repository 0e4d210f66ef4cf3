"""Jobs run as Jobs of Kubernetes and as jobs of Ray, here with clusters of this machine, as they run in processes."""

import contextlib
import os
import re
import signal
import time

import pytest
from click.testing import CliRunner

from jobs import trainer as module
from jobs.cli import trainer as command
from jobs.launchers import kubernetes
from jobs.launchers import launcher as clusters
from jobs.launchers.kubernetes import Api, KubernetesLauncher
from jobs.launchers.launcher import Exit, LauncherError, LauncherUnavailable
from jobs.launchers.ray import RayLauncher
from tests.documents import rows
from tests.unit.jobs.fake_clusters import TOKEN, KubernetesCluster, RayCluster
from tests.waiting import until


def launcher_of(cluster, directory, queue=None):
    if isinstance(cluster, RayCluster):
        return RayLauncher(f"{cluster.url}/", 1.5)
    (directory / "token").write_text(f"{TOKEN}\n")
    return KubernetesLauncher(Api(cluster.url, "a-namespace", directory / "token", None), "training", queue)


@pytest.fixture(params=[(KubernetesCluster, None), (RayCluster, None)], ids=["kubernetes", "ray"])
def cluster(request, place, tmp_path, monkeypatch):
    """A cluster in which the place's trainers start their trainings."""
    monkeypatch.setattr(clusters, "POLL_S", 0.02)
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    kind, queue = request.param
    with kind() as cluster:
        place.launcher = launcher_of(cluster, tmp_path, queue)
        yield cluster
        place.stop()


def only_in(kind, queue=None):
    return pytest.mark.parametrize("cluster", [(kind, queue)], indirect=True, ids=[queue or kind.__name__])


def messages(place, job_id):
    return [event.message for event in place.store.list_events(job_id, 0, 100)]


def test_a_restarted_trainer_adopts_what_runs(place, cluster):
    """One that stops leaves the training running, and the next one starts no other."""
    job_id = place.begin()
    place.stop()
    assert place.job(job_id).status == "running"
    place.start()
    until(lambda: place.job(job_id).attempt == 2, timeout=60)
    place.go_on()
    assert place.wait(job_id, "succeeded", "failed").status == "succeeded"
    assert list(cluster.jobs) == [f"{job_id}-1-1"]
    assert list(place.versions) == ["1"]


def test_a_database_that_is_away_for_a_while_ends_nothing_in_the_cluster(place, cluster, monkeypatch):
    """The trainer then finds what runs."""
    job_id = place.begin()
    place.lose_database(monkeypatch, "renew", times=1)
    until(lambda: place.job(job_id).attempt == 2, timeout=60)
    assert cluster.code(f"{job_id}-1-1") is None
    place.go_on()
    assert place.wait(job_id, "succeeded", "failed").status == "succeeded"
    assert list(cluster.jobs) == [f"{job_id}-1-1"]


def test_what_ended_without_a_trainer_is_not_trained_again(place, cluster):
    job_id = place.begin()
    place.stop()
    place.go_on()
    until(lambda: cluster.code(f"{job_id}-1-1") == 0, timeout=60)
    place.start()
    job = place.wait(job_id, "succeeded", "failed")
    assert (job.version, job.trained_tokens) == (1, 10)
    assert [event.data["epoch"] for event in place.epochs(job_id)] == [1, 2, 3]
    assert list(cluster.jobs) == [f"{job_id}-1-1"]


def test_what_ends_while_a_trainer_looks_for_it_is_not_trained_again(place, cluster, monkeypatch):
    job_id = place.begin()
    place.stop()
    find = type(place.launcher).find

    def end_and_find(launcher, job):
        place.go_on()
        until(lambda: cluster.code(f"{job_id}-1-1") == 0, timeout=60)
        return find(launcher, job)

    monkeypatch.setattr(type(place.launcher), "find", end_and_find)
    place.start()
    assert place.wait(job_id, "succeeded", "failed").version == 1
    assert list(cluster.jobs) == [f"{job_id}-1-1"]
    assert list(place.versions) == ["1"]


@pytest.mark.parametrize("action", ["cancel", "pause"])
def test_a_request_ends_what_runs_in_the_cluster(place, cluster, action):
    job_id = place.begin()
    place.store.request("", job_id, action)
    place.wait(job_id, "cancelled", "paused")
    assert cluster.code(f"{job_id}-1-1") is not None
    if action == "pause":
        place.store.request("", job_id, "resume")
        place.go_on()
        assert place.wait(job_id, "succeeded").version == 1
        assert f"{job_id}-2-1" in cluster.jobs


def test_a_request_without_a_trainer_is_heard_by_the_next(place, cluster):
    job_id = place.begin()
    place.stop()
    place.store.request("", job_id, "cancel")
    assert cluster.code(f"{job_id}-1-1") is None
    place.start()
    place.wait(job_id, "cancelled")
    assert cluster.code(f"{job_id}-1-1") is not None
    assert place.versions == {}


def test_the_exporters_error_is_the_jobs(place, cluster):
    place.go_on()
    assert place.wait_for_failure("fail") == "the corpus is too short"
    assert cluster.jobs


@pytest.mark.parametrize("text", ["kills", "terms"])
def test_a_run_that_is_killed_is_replaced_and_resumes(place, cluster, text):
    job = place.train(text)
    assert job.status == "succeeded"
    assert list(cluster.jobs) == [f"{job.id}-1-{number}" for number in (1, 2, 3, 4)]
    assert [event.data["epoch"] for event in place.epochs(job.id)] == [1, 2, 3]
    assert list(place.versions) == ["1"]


def test_a_training_that_takes_too_long_is_ended(place, cluster, monkeypatch):
    """Twice its max_minutes, those of the recipe here, and some."""
    monkeypatch.setattr(module, "OVERTIME_S", 0.5 - 2 * 180)
    assert place.wait_for_failure("text").startswith("the training takes longer than twice its max_minutes")
    assert [process.poll() for process in cluster.processes.values()] != [None]


def test_a_cluster_that_is_away_for_a_while_fails_no_job(place, cluster, monkeypatch):
    monkeypatch.setattr(module, "UNAVAILABLE_S", 0.2)
    cluster.is_available = False
    job_id = place.submit("text")
    place.start()
    until(lambda: "the cluster does not respond; trying again" in messages(place, job_id), timeout=60)
    cluster.is_available = True
    place.wait_for_run(job_id)
    cluster.is_available = False
    place.go_on()
    until(lambda: len(place.epochs(job_id)) == 3, timeout=60)
    assert place.job(job_id).status == "running"
    cluster.is_available = True
    assert place.wait(job_id, "succeeded", "failed").status == "succeeded"
    assert list(place.versions) == ["1"]


@pytest.mark.parametrize("has_begun", [False, True])
def test_a_job_is_cancelled_while_the_cluster_is_away(place, cluster, monkeypatch, has_begun):
    """What runs of it is stopped once the cluster responds, and only then its directory is deleted."""
    monkeypatch.setattr(module, "UNAVAILABLE_S", 0.2)
    monkeypatch.setattr(module, "CLEAN_S", 0.2)
    cluster.is_available = has_begun
    job_id = place.submit("text")
    place.start()
    if has_begun:
        place.wait_for_run(job_id)
        cluster.is_available = False
    else:
        until(lambda: "the cluster does not respond; trying again" in messages(place, job_id), timeout=60)
    place.store.request("", job_id, "cancel")
    assert place.wait(job_id, "cancelled", "failed").status == "cancelled"
    assert [process.poll() for process in cluster.processes.values()] == [None] * has_begun
    cluster.is_available = True
    until(lambda: not (place.training / f"jobs/{job_id}").exists(), timeout=60)
    assert None not in [process.poll() for process in cluster.processes.values()]
    assert list(place.versions) == []


def test_a_cluster_that_refuses_a_training_fails_the_job(place, cluster, monkeypatch):
    """What it says is in the trainer's log alone."""
    answer = type(cluster).answer
    refuse = (403, {"message": "jobs.batch is forbidden"})
    monkeypatch.setattr(
        cluster, "answer", lambda method, *rest: refuse if method == "POST" else answer(cluster, method, *rest)
    )
    error = place.train().error
    assert error["code"] == "server_error"
    assert error["message"] == "the cluster refuses the training; see the trainer's log"


def test_what_runs_of_a_failed_job_is_stopped_once_the_cluster_allows_it(place, cluster, monkeypatch):
    """As while the trainer's rights are changed; it would publish a version of a job that has failed."""
    monkeypatch.setattr(module, "CLEAN_S", 0.2)
    job_id = place.begin()
    with monkeypatch.context() as while_refused:
        while_refused.setattr(cluster, "answer", lambda *_: (403, {"message": "jobs.batch is forbidden"}))
        assert place.wait(job_id, "failed").error["code"] == "server_error"
        assert [process.poll() for process in cluster.processes.values()] == [None]
    until(lambda: None not in [process.poll() for process in cluster.processes.values()], timeout=60)
    until(lambda: not (place.training / f"jobs/{job_id}").exists(), timeout=60)


@only_in(KubernetesCluster, "a-queue")
def test_a_job_has_the_pod_of_the_template_and_its_own_limits(place, cluster):
    job_id = place.submit("text")
    place.go_on()
    place.start()
    until(lambda: "waiting for quota" in messages(place, job_id), timeout=60)
    time.sleep(0.3)
    assert place.job(job_id).trained_s < 0.1
    (name,) = cluster.jobs
    job, template = cluster.jobs[name], cluster.templates["training"]["template"]
    own = {"kueue.x-k8s.io/queue-name": "a-queue", "sostenuto/job": job_id, "sostenuto/tenant": ""}
    assert job["metadata"]["labels"] == {**template["metadata"]["labels"], **own}
    spec = job["spec"]
    assert (spec["suspend"], spec["backoffLimit"]) == (True, 0)
    assert spec["activeDeadlineSeconds"] > 2 * 180 + module.OVERTIME_S
    pod, original = spec["template"]["spec"], template["spec"]
    (container,), (given,) = pod["containers"], original["containers"]
    assert {**pod, "containers": []} == {**original, "containers": []}
    assert {**container, "command": None, "args": None} == {**given, "command": None, "args": None}
    cluster.admit(name)
    assert place.wait(job_id, "succeeded", "failed").status == "succeeded"


@only_in(KubernetesCluster, "a-queue")
def test_a_preempted_job_waits_again_and_resumes(place, cluster):
    job_id = place.submit("text")
    place.start()
    until(lambda: cluster.jobs, timeout=60)
    cluster.admit(f"{job_id}-1-1")
    place.wait_for_run(job_id)
    cluster.preempt(f"{job_id}-1-1")
    until(lambda: f"{job_id}-1-2" in cluster.jobs, timeout=60)
    assert f"{job_id}-1-1" not in cluster.jobs
    assert "resume" in cluster.jobs[f"{job_id}-1-2"]["spec"]["template"]["spec"]["containers"][0]["command"][-1]
    assert "the training was ended by the cluster; it continues after its last epoch" in messages(place, job_id)
    place.go_on()
    cluster.admit(f"{job_id}-1-2")
    assert place.wait(job_id, "succeeded", "failed").status == "succeeded"


@only_in(KubernetesCluster)
class TestPods:
    def test_one_that_takes_too_much_memory_fails_the_job(self, place, cluster):
        job_id = place.begin()
        cluster.out_of_memory = True
        os.killpg(cluster.processes[f"{job_id}-1-1"].pid, signal.SIGKILL)
        job = place.wait(job_id, "failed")
        assert re.match("the training may take at most 4Gi of memory, got more; choose smaller", job.error["message"])

    def test_evicted_ones_are_replaced_as_often_as_it_takes(self, place, cluster):
        job_id = place.begin()
        for number in range(1, module.MAX_KILLS + 2):
            name = f"{job_id}-1-{number}"
            until(lambda name=name: name in cluster.processes, timeout=60)
            cluster.disrupted.add(name)
            os.killpg(cluster.processes[name].pid, signal.SIGKILL)
        place.go_on()
        assert place.wait(job_id, "succeeded", "failed").status == "succeeded"

    def test_one_without_a_node_says_so(self, place, cluster):
        cluster.unschedulable = True
        job_id = place.submit("text")
        place.start()
        until(lambda: "waiting for a node with enough CPUs and memory" in messages(place, job_id), timeout=60)
        place.store.request("", job_id, "cancel")
        place.wait(job_id, "cancelled")
        assert cluster.deleted == {f"{job_id}-1-1"}

    def test_a_missing_template_is_the_clusters_refusal(self, place, cluster):
        cluster.templates.clear()
        assert place.train().error["code"] == "server_error"


@only_in(RayCluster)
class TestRay:
    def test_a_job_reserves_its_cpus_and_memory_and_waits_for_them(self, place, cluster):
        cluster.is_full = True
        job_id = place.submit("text")
        place.start()
        until(lambda: "waiting for the Ray cluster" in messages(place, job_id), timeout=60)
        submitted = cluster.jobs[f"{job_id}-1-1"]
        assert (submitted["entrypoint_num_cpus"], submitted["entrypoint_memory"]) == (1.5, 2**40)
        assert submitted["metadata"] == {"job": job_id, "tenant": ""}

    def test_one_that_is_lost_is_replaced_twice(self, place, cluster):
        job_id = place.submit("crash")
        cluster.lost.update(f"{job_id}-1-{number}" for number in (1, 2, 3))
        place.start()
        assert "killed by SIGKILL" in place.wait(job_id, "failed").error["message"]
        assert len(cluster.jobs) == module.MAX_KILLS


@pytest.mark.parametrize(("code", "found"), [(0, 0), (1, 1), (-9, -9), (137, -9), (255, 255)])
def test_an_exit_code_above_128_is_that_of_a_signal_if_there_is_such_a_signal(code, found):
    assert Exit.of(code) == Exit(found)


def test_a_pod_without_a_limit_of_memory_is_killed():
    """Its node has run out of memory; the template need not have limits."""
    assert kubernetes._exit_of({"exitCode": 137, "reason": "OOMKilled"}, {"name": "trainer"}) == Exit(-9)


def test_a_tenants_name_that_is_no_label_is_hashed():
    assert kubernetes._label("acme") == "acme"
    for name in ("anna@example.org", "x" * 64, "trailing-"):
        assert re.fullmatch(r"sha256-[0-9a-f]{16}", kubernetes._label(name))


def test_a_launcher_outside_of_a_cluster_says_so(tmp_path, monkeypatch):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    done = CliRunner().invoke(command, ["--launcher", "kubernetes", "--training-dir", str(tmp_path)])
    assert done.exit_code == 2
    assert "--launcher kubernetes: this process does not run in a pod" in done.output


def test_the_settings_page_lists_every_option_of_a_trainer():
    told = {}
    for variables, options, _ in rows("variable of a trainer", "option"):
        told |= dict(zip(*(re.findall("`(.*?)`", cell) for cell in (variables, options)), strict=True))
    assert told == {parameter.envvar: parameter.opts[0] for parameter in command.params}


def test_a_port_without_a_server_is_an_unavailable_cluster(tmp_path):
    with KubernetesCluster() as cluster:
        launcher = launcher_of(cluster, tmp_path)
    with pytest.raises(LauncherUnavailable), contextlib.suppress(LauncherError):
        launcher.find("ftjob-1")
