"""Clusters on this machine: HTTP servers with the REST APIs of Kubernetes and of Ray Jobs, whose pods are processes.

They answer as the real ones do, as far as the launchers ask, and check what they are asked for: a Job by the schema of
Kubernetes, a token, a name that is taken.
"""

import contextlib
import json
import os
import signal
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import kubernetes_validate
import yaml

from tests.paths import ROOT

TOKEN = "a-token"
_MANIFEST = ROOT / "deploy/kubernetes/components/training/training.yaml"


class Cluster:
    """An HTTP server that starts shell commands as processes; a context manager."""

    def __init__(self):
        self.processes, self.jobs = {}, {}
        self.is_available, self._stopped = True, set()
        cluster = self

        class Handler(BaseHTTPRequestHandler):
            def _serve(self):
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length)) if length else None
                url = urlsplit(self.path)
                query = {name: values[0] for name, values in parse_qs(url.query).items()}
                status, answer = 503, {"message": "unavailable"}
                if cluster.is_available:
                    status, answer = 401, {"message": "Unauthorized"}
                    if self.headers.get("Authorization") == f"Bearer {TOKEN}":
                        status, answer = cluster.answer(self.command, url.path.rstrip("/"), query, body)
                content = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_DELETE = _serve

            def log_message(self, *_):
                """Log nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
        for process in self.processes.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def run(self, name, command, **variables):
        environment = {**os.environ, **variables, "PYTHONPATH": str(ROOT)}
        self.processes[name] = subprocess.Popen(command, env=environment, start_new_session=True)

    def ask_to_end(self, name):
        """Send SIGTERM to the process of a job, once."""
        if name in self.processes and name not in self._stopped:
            self._stopped.add(name)
            self.processes[name].terminate()

    def code(self, name):
        """Return the exit code of a job's process; None while it runs."""
        return self.processes[name].poll()


class KubernetesCluster(Cluster):
    """One with the PodTemplate of the project's manifests."""

    def __init__(self):
        super().__init__()
        (found,) = (each for each in yaml.safe_load_all(_MANIFEST.read_text()) if each["kind"] == "PodTemplate")
        self.templates = {"training": found}
        # Reading the schema takes seconds, which a client does not wait for.
        kubernetes_validate.validate(found, kubernetes_validate.latest_version(), strict=True)
        self.deleted, self.out_of_memory, self.disrupted, self.unschedulable = set(), False, set(), False

    def answer(self, method, path, query, body):  # noqa: PLR0911 - a table
        group, _, rest = path.partition("/namespaces/a-namespace/")
        kind, _, name = rest.partition("/")
        match method, group, kind:
            case "GET", "/api/v1", "podtemplates":
                return self._found(self.templates.get(name))
            case "GET", "/api/v1", "pods":
                return 200, {"items": self._pods(query["labelSelector"].partition("job-name=")[2])}
            case "POST", "/apis/batch/v1", "jobs":
                return self._create(body)
            case "DELETE", "/apis/batch/v1", "jobs":
                assert query == {"propagationPolicy": "Foreground"}
                self.deleted.add(name)
                self.ask_to_end(name)
                return self._found(self._job(name))
            case "GET", "/apis/batch/v1", "jobs" if name:
                return self._found(self._job(name))
            case "GET", "/apis/batch/v1", "jobs":
                label, _, value = query["labelSelector"].partition("=")
                jobs = [self._job(name) for name, job in self.jobs.items() if job["metadata"]["labels"][label] == value]
                return 200, {"items": [job for job in jobs if job]}
        return 405, {"message": f"{method} {path}"}

    def admit(self, name):
        self._suspend(name, False)
        self._start(name)

    def preempt(self, name):
        """Suspend a Job that runs, as Kueue does."""
        self._suspend(name, True)
        self.ask_to_end(name)
        self.processes.pop(name).wait()

    def _suspend(self, name, is_suspended):
        self.jobs[name]["spec"]["suspend"] = is_suspended
        self.jobs[name]["metadata"]["generation"] += 1

    @staticmethod
    def _found(found):
        return (200, found) if found else (404, {"message": "not found"})

    def _create(self, job):
        kubernetes_validate.validate(job, kubernetes_validate.latest_version(), strict=True)
        name = job["metadata"]["name"]
        if name in self.jobs:
            return 409, {"message": "AlreadyExists"}
        job["metadata"]["generation"] = 1
        self.jobs[name] = job
        if not job["spec"].get("suspend") and not self.unschedulable:
            self._start(name)
        return 201, job

    def _start(self, name):
        self.run(name, self.jobs[name]["spec"]["template"]["spec"]["containers"][0]["command"])

    def _job(self, name):
        """Return a Job with its status; None once it is deleted and its process has ended."""
        has_started = name in self.processes
        code = self.code(name) if has_started else None
        if name in self.deleted and (code is not None or not has_started):
            self.jobs.pop(name, None)
        if name not in self.jobs:
            return None
        status = {"active": 1, "ready": 1} if has_started and code is None else {}
        if code is not None and name not in self.deleted:
            kind, reason = ("Complete", "CompletionsReached") if code == 0 else ("Failed", "BackoffLimitExceeded")
            status["conditions"] = [{"type": kind, "status": "True", "reason": reason}]
        return {**self.jobs[name], "status": status}

    def _pods(self, name):
        scheduled = [{"type": "PodScheduled", "status": "False" if self.unschedulable else "True"}]
        spec = self.jobs[name]["spec"]["template"]["spec"]
        if name not in self.processes:
            return [{"spec": spec, "status": {"phase": "Pending", "conditions": scheduled}}]
        code = self.code(name)
        ended = {"exitCode": 128 - code if code and code < 0 else code, "reason": "Error"}
        if self.out_of_memory:
            ended["reason"] = "OOMKilled"
        if name in self.disrupted:
            scheduled.append({"type": "DisruptionTarget", "status": "True"})
        statuses = [{"state": {"running": {}} if code is None else {"terminated": ended}}]
        return [{"spec": spec, "status": {"phase": "Running", "conditions": scheduled, "containerStatuses": statuses}}]


class RayCluster(Cluster):
    """One with Ray's dashboard."""

    def __init__(self):
        super().__init__()
        self.is_full, self.lost = False, set()

    def answer(self, method, path, _query, body):
        name = path.removeprefix("/api/jobs").strip("/").removesuffix("/stop")
        if method == "GET":
            if not name:
                return 200, [self._job(each) for each in self.jobs]
            return (200, self._job(name)) if name in self.jobs else (404, "does not exist")
        if path.endswith("/stop"):
            self.ask_to_end(name)
            return 200, {"stopped": True}
        name = body["submission_id"]
        if name in self.jobs:
            return 400, f"Job with submission_id {name} already exists"
        self.jobs[name] = body
        if not self.is_full:
            self.run(name, ["/bin/sh", "-c", body["entrypoint"]], **body["runtime_env"]["env_vars"])
        return 200, {"submission_id": name}

    def _job(self, name):
        if name not in self.processes:
            return {"submission_id": name, "status": "PENDING", "driver_exit_code": None}
        code, status = self.code(name), "RUNNING"
        if code is not None:
            status = "STOPPED" if name in self._stopped else "FAILED" if code else "SUCCEEDED"
        if status == "STOPPED" or name in self.lost:
            code = None
        return {"submission_id": name, "status": status, "driver_exit_code": code}
