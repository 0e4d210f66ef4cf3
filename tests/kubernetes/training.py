"""docs/kubernetes.md's component trains on a client's text in Jobs, which outlive trainers and wait for quotas.

Not named as tests are, since it needs a cluster: `tests/kubernetes/run` runs it after `smoke.py`. Kueue is not there:
`kubectl` admits and preempts Jobs in its place, by the field that Kueue sets.
"""

import contextlib
import json
import shlex
import subprocess

import pytest
import yaml

import sostenuto
from tests.kubernetes.deployment import GATEWAY, KEY, PATIENCE_S
from tests.paths import ROOT
from tests.ports import free_port

pytestmark = pytest.mark.timeout(1800)
TEXT = "".join(f"{number}. It was the best of times, it was the worst of times.\n" for number in range(2000))
TINY = {"units": 16, "embedding": 8, "batch_size": 4, "max_minutes": 20}


class Training:
    """The deployment with the page's component, and a client whose key may train."""

    def __init__(self, deployment):
        self.kubectl, self._deployment = deployment.kubectl, deployment
        self.client = None

    def follow_the_page(self):
        """Run the commands of the page's section `Train`, with a database in the cluster."""
        deployment = self._deployment
        self.kubectl.run("apply", "--filename", str(ROOT / "tests/kubernetes/postgresql.yaml"))
        self.kubectl.run("rollout", "status", "deployment/postgresql", f"--timeout={PATIENCE_S}s", timeout=PATIENCE_S)
        (block,) = (block for block in deployment.blocks if block.text.startswith("kubectl create secret generic tr"))
        texts = [command.text.replace("postgresql.example", "postgresql") for command in block.commands()]
        (key,) = KEY.findall(deployment.bash("\n".join(texts)))
        content = yaml.safe_load((deployment.mine / "kustomization.yaml").read_text())
        more = next(yaml.safe_load(it.text) for it in deployment.blocks if it.text.startswith("components:"))
        (storage_class,) = (yaml.safe_load(it["patch"])[0]["value"] for it in content["patches"][:1])
        content["components"] = more["components"]
        patch = more["patches"][0]
        content["patches"].append({**patch, "patch": patch["patch"].replace("value: nfs", f"value: {storage_class}")})
        (deployment.mine / "kustomization.yaml").write_text(yaml.safe_dump(content))
        deployment.run_block("kubectl apply -k ../my-sostenuto\nkubectl rollout status deployment/trainer")
        deployment.until_steady()
        return key

    def jobs(self, job):
        found = self.kubectl.get("jobs", "--selector", f"sostenuto/job={job.id}")
        return {each["metadata"]["name"]: each for each in found}

    def pods(self, job):
        """Return the names of the pods of a training job that run."""
        found = self.kubectl.get("pods", "--selector", f"sostenuto/job={job.id}")
        return [each["metadata"]["name"] for each in found if each["status"]["phase"] == "Running"]

    def messages(self, job):
        return [event.message for event in self.client.job(job.id).plot().events]

    def until_epoch(self, job, number):
        """Wait until an epoch of a job is complete."""

        def is_complete():
            assert job.refresh().status in {"queued", "running"}, (job.status, job.error)
            return any(
                message.startswith(f"epoch {number}: ") and "validation" in message for message in self.messages(job)
            )

        self.kubectl.until(is_complete, f"epoch {number} is complete", PATIENCE_S)

    def suspend(self, name, is_suspended):
        """Admit or preempt a Job, as Kueue does."""
        patch = json.dumps({"spec": {"suspend": is_suspended}})
        self.kubectl.run("patch", "job", name, "--type=merge", "--patch", patch)

    def epochs(self, job):
        events = self.client.job(job.id).plot().events
        return [event.epoch for event in events if event.is_best is not None]


@contextlib.contextmanager
def forwarded(kubectl):
    """Forward a port to a gateway's Service; yield its URL."""
    port = free_port()
    command = shlex.split(f"kubectl port-forward service/{GATEWAY} {port}:80")
    running = subprocess.Popen(command, env=kubectl.environment, stdout=subprocess.PIPE, text=True)
    try:
        assert "Forwarding from" in running.stdout.readline()
        yield f"http://127.0.0.1:{port}"
    finally:
        running.terminate()
        running.wait()
        running.stdout.close()


@pytest.fixture(scope="module")
def training(deployment):
    """The component, added to the deployment."""
    training = Training(deployment)
    key = training.follow_the_page()
    with forwarded(deployment.kubectl) as url, sostenuto.Client(url, api_key=key) as client:
        training.client = client
        yield training


def test_a_clients_text_becomes_a_model_by_a_job_of_the_cluster(training):
    """The Job has the labels of tenant and job; its pod has no token, and the model answers."""
    job = training.client.train(TEXT, name="book", epochs=20, **TINY)
    training.kubectl.until(lambda: training.pods(job), "the training runs", PATIENCE_S)
    (pod,) = training.pods(job)
    reach = "import socket; socket.create_connection(('gateway', 80), 5)"
    python = ("--", "/sostenuto/venv/bin/python", "-c")
    assert training.kubectl.start("exec", pod, *python, reach).returncode != 0, "a training reaches the network"
    token = "open('/var/run/secrets/kubernetes.io/serviceaccount/token')"
    assert "No such file" in training.kubectl.start("exec", pod, *python, token).stderr
    job.wait(PATIENCE_S)
    (found,) = training.jobs(job).values()
    assert found["metadata"]["labels"]["sostenuto/tenant"] == "alice"
    assert found["metadata"]["labels"]["app.kubernetes.io/name"] == "training"
    assert len(training.client.generate("It was", model=job.fine_tuned_model, max_tokens=10).text) == 10


def test_a_killed_trainer_adopts_the_job_that_runs_and_publishes_it_once(training):
    job = training.client.train(TEXT, name="adopted", epochs=8, **TINY)
    training.until_epoch(job, 1)
    before = training.jobs(job).keys()
    training.kubectl.run(
        "delete", "pods", "--selector", "app.kubernetes.io/name=trainer", "--force", "--grace-period=0"
    )
    job.wait(PATIENCE_S)
    assert training.jobs(job).keys() == before
    assert training.epochs(job) == list(range(1, 9))
    assert job.version == 1
    assert "training again: its trainer has ended" in training.messages(job)


def test_a_pod_that_is_deleted_is_replaced_and_resumes(training):
    job = training.client.train(TEXT, name="evicted", epochs=8, **TINY)
    training.until_epoch(job, 1)
    training.kubectl.run("delete", "pod", *training.pods(job), "--wait=false")
    job.wait(PATIENCE_S)
    assert training.epochs(job) == list(range(1, 9))
    assert len(training.jobs(job)) == 2
    assert "the training was ended by the cluster; it continues after its last epoch" in training.messages(job)


def test_a_cancelled_job_has_no_job_in_the_cluster(training):
    job = training.client.train(TEXT, name="cancelled", epochs=1000, **TINY)
    training.until_epoch(job, 1)
    job.cancel()
    with pytest.raises(sostenuto.JobCancelled):
        job.wait(PATIENCE_S)
    assert training.jobs(job) == {}
    assert training.pods(job) == []


def test_a_training_beyond_the_memory_of_the_template_says_so(training):
    """TensorFlow alone takes more than this. Not every container runtime says why it was killed."""
    get = ("get", "podtemplate", "training", "--output", "json")
    before = json.loads(training.kubectl.run(*get))
    limited = json.loads(json.dumps(before))
    limited["template"]["spec"]["containers"][0]["resources"]["requests"]["memory"] = "64Mi"
    limited["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"] = "128Mi"
    for each in (before, limited):
        each["metadata"] = {"name": "training", "labels": each["metadata"]["labels"]}
    training.kubectl.run("replace", "--filename", "-", input_=json.dumps(limited))
    try:
        job = training.client.train(TEXT, name="large", epochs=1, **TINY)
        with pytest.raises(sostenuto.JobFailed, match=r"may take at most 128Mi of memory|may have run out of memory"):
            job.wait(PATIENCE_S)
    finally:
        training.kubectl.run("replace", "--filename", "-", input_=json.dumps(before))


def test_jobs_of_a_queue_wait_for_quota_and_survive_preemption(training):
    """Suspended until they are admitted, and after a preemption resumed by another Job, which waits again."""
    training.kubectl.run("set", "env", "deployment/trainer", "SOSTENUTO_KUEUE_QUEUE=training")
    training.kubectl.run("rollout", "status", "deployment/trainer", "--timeout=300s", timeout=320)
    job = training.client.train(TEXT, name="queued", epochs=8, **TINY)
    training.kubectl.until(lambda: "waiting for quota" in training.messages(job), "it waits for quota", PATIENCE_S)
    ((name, found),) = training.jobs(job).items()
    assert found["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "training"
    assert found["spec"]["suspend"] is True
    assert training.pods(job) == []
    training.suspend(name, False)
    training.until_epoch(job, 1)
    training.suspend(name, True)

    def successor():
        return training.jobs(job).keys() - {name}

    training.kubectl.until(successor, "another Job waits", PATIENCE_S)
    assert name not in training.jobs(job)
    training.suspend(*successor(), False)
    job.wait(PATIENCE_S)
    assert training.epochs(job) == list(range(1, 9))
    assert job.version == 1
