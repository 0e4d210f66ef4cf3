"""Trainings as Jobs of the Kubernetes cluster that the trainer runs in, made from a PodTemplate.

With a queue, a Job is suspended until Kueue admits it, and again when Kueue preempts it.
"""

import copy
import hashlib
import math
import os
import re
from pathlib import Path
from typing import Any

from jobs.launchers.launcher import ClusterRun, Exit, LauncherError, Training, call

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
# A Job whose trainer does not end it in time ends by itself.
_SPARE_S = 600
# An ended Job stays for `kubectl describe`.
_TTL_S = 3600
_JOB_LABEL, _TENANT_LABEL, _QUEUE_LABEL = "sostenuto/job", "sostenuto/tenant", "kueue.x-k8s.io/queue-name"


class Api:
    """The API server, with the credentials of a pod's service account."""

    def __init__(self, url: str, namespace: str, token_file: Path, ca_file: Path | None) -> None:
        self._url, self._namespace = url, namespace
        self._token_file, self._ca_file = token_file, ca_file

    @classmethod
    def of_pod(cls) -> "Api":
        """Return the API of the cluster that this process runs in; raise LauncherError outside of one."""
        try:
            host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
            namespace = (_ACCOUNT / "namespace").read_text().strip()
        except (KeyError, OSError) as error:
            raise LauncherError("this process does not run in a pod with a service account's token") from error
        address = f"[{host}]" if ":" in host else host
        return cls(f"https://{address}:{port}", namespace, _ACCOUNT / "token", _ACCOUNT / "ca.crt")

    def call(self, method: str, group: str, path: str, **options: Any) -> Any:
        """Call the API of a group, such as `apis/batch/v1`, in the namespace; raise as `cluster.call`."""
        # Tokens are replaced while the process runs.
        headers = {"Authorization": f"Bearer {self._token_file.read_text().strip()}"}
        url = f"{self._url}/{group}/namespaces/{self._namespace}/{path}"
        return call(method, url, headers=headers, verify=str(self._ca_file) if self._ca_file else True, **options)


_BATCH, _CORE = "apis/batch/v1", "api/v1"


class KubernetesLauncher:
    """Creates Jobs, with the pod of a PodTemplate but another command."""

    outlives_trainer = True

    def __init__(self, api: Api, template: str, queue: str | None = None) -> None:
        self._api, self._template, self._queue = api, template, queue

    def find(self, job: str) -> "KubernetesJob | None":
        found = self._api.call("GET", _BATCH, "jobs", params={"labelSelector": f"{_JOB_LABEL}={job}"})
        running = (each for each in found["items"] if not _ended(each))
        return next((KubernetesJob(self._api, each["metadata"]["name"]) for each in running), None)

    def start(self, training: Training) -> "KubernetesJob":
        """Create a Job; one of this name is the same."""
        template = self._api.call("GET", _CORE, f"podtemplates/{self._template}")
        if template is None:
            raise LauncherError(f"there is no PodTemplate {self._template} in the trainer's namespace")
        # A retried request may find what the first one has created.
        if self._api.call("GET", _BATCH, f"jobs/{training.name}") is None:
            self._api.call("POST", _BATCH, "jobs", json=self._manifest(training, template["template"]))
        return KubernetesJob(self._api, training.name)

    def _manifest(self, training: Training, template: dict[str, Any]) -> dict[str, Any]:
        labels = {_JOB_LABEL: training.job, _TENANT_LABEL: _label(training.tenant)}
        pod = copy.deepcopy(template)
        pod["metadata"] = {
            "labels": {**pod.get("metadata", {}).get("labels", {}), **labels},
            "annotations": pod.get("metadata", {}).get("annotations", {}),
        }
        pod["spec"]["restartPolicy"] = "Never"
        pod["spec"]["containers"][0] |= {"command": ["/bin/sh", "-c", training.shell_command], "args": []}
        # The trainer starts another Job, which resumes the run; a pod of the same Job would begin anew.
        spec = {"backoffLimit": 0, "ttlSecondsAfterFinished": _TTL_S, "template": pod}
        if training.max_s is not None:
            spec["activeDeadlineSeconds"] = math.ceil(training.max_s) + _SPARE_S
        if self._queue is not None:
            labels[_QUEUE_LABEL] = self._queue
            spec["suspend"] = True
        metadata = {"name": training.name, "labels": {**pod["metadata"]["labels"], **labels}}
        return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}


class KubernetesJob(ClusterRun):
    """A training as a Job; to stop it is to delete it with its pod."""

    def __init__(self, api: Api, name: str) -> None:
        super().__init__(name)
        self._api, self._has_started = api, False

    def kill(self) -> None:
        """Delete the Job; its pod has the grace period of the PodTemplate."""
        self._api.call("DELETE", _BATCH, f"jobs/{self._name}", params={"propagationPolicy": "Foreground"})

    def _get(self) -> Any:
        return self._api.call("GET", _BATCH, f"jobs/{self._name}")

    def _stopped(self) -> Exit | None:
        return Exit(None) if self._get() is None else None

    def _look(self) -> Exit | None:
        job = self._get()
        if job is None:
            return Exit(None)
        condition = _ended(job)
        if condition is not None:
            return Exit(0) if condition["type"] == "Complete" else self._failure(condition)
        if job["spec"].get("suspend"):
            self.waits_for = "waiting for quota"
            # Each change of a Job's spec increments this number.
            if job["metadata"]["generation"] == 1:
                return None
            # Kueue has admitted and preempted it, and would let it begin anew. The next Job resumes the run.
            self.stop()
            return self._exit
        if job["status"].get("ready"):
            self._has_started, self.waits_for = True, None
        elif not self._has_started:
            self.waits_for = self._pending()
        return None

    def _pods(self) -> list[Any]:
        selector = {"labelSelector": f"batch.kubernetes.io/job-name={self._name}"}
        return list(self._api.call("GET", _CORE, "pods", params=selector)["items"])

    def _pending(self) -> str | None:
        """Return what its pod waits for; without the cluster's own words, which a tenant would see."""
        for pod in self._pods():
            conditions = {each["type"]: each["status"] for each in pod["status"].get("conditions", [])}
            if conditions.get("PodScheduled") == "False":
                return "waiting for a node with enough CPUs and memory"
            if pod["status"]["phase"] != "Pending":
                return None
        return "waiting for its container"

    def _failure(self, condition: dict[str, Any]) -> Exit:
        if condition.get("reason") == "DeadlineExceeded":
            return Exit(1, "the training takes longer than the deadline of its Job")
        for pod in self._pods():
            is_disrupted = any(
                each["type"] == "DisruptionTarget" and each["status"] == "True"
                for each in pod["status"].get("conditions", [])
            )
            for container in () if is_disrupted else pod["status"].get("containerStatuses", []):
                if (ended := container["state"].get("terminated")) is not None:
                    return _exit_of(ended, pod["spec"]["containers"][0])
        # Its pod is gone: evicted, or with its node.
        return Exit(None)


def _exit_of(ended: dict[str, Any], container: dict[str, Any]) -> Exit:
    limit = container.get("resources", {}).get("limits", {}).get("memory")
    # Without a limit its node has run out of memory, maybe not by its fault.
    if ended.get("reason") == "OOMKilled" and limit is not None:
        sizes = "units, layers, batch_size or sequence_length"
        return Exit(1, f"the training may take at most {limit} of memory, got more; choose smaller {sizes}")
    return Exit.of(ended["exitCode"])


def _ended(job: dict[str, Any]) -> dict[str, Any] | None:
    conditions: list[dict[str, Any]] = job["status"].get("conditions", [])
    return next((it for it in conditions if it["type"] in ("Complete", "Failed") and it["status"] == "True"), None)


def _label(tenant: str) -> str:
    """Return a tenant's name as the value of a label, which may be less than a name."""
    if re.fullmatch(r"([A-Za-z0-9]([\w.-]{0,61}[A-Za-z0-9])?)?", tenant, re.ASCII):
        return tenant
    return f"sha256-{hashlib.sha256(tenant.encode()).hexdigest()[:16]}"
