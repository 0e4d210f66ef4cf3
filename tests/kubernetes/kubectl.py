"""kubectl on the cluster of the current context, in a namespace: objects as dicts, and waiting."""

import json
import os
import shlex
import subprocess
import time

NODE = "NODE"


class Kubectl:
    """Runs kubectl with a kubeconfig of its own, so that the user's current namespace stays."""

    def __init__(self, folder):
        """Copy the current context into a kubeconfig in a directory."""
        self.config = folder / "kubeconfig"
        command = ["kubectl", "config", "view", "--raw", "--flatten", "--minify"]
        self.config.write_bytes(subprocess.run(command, capture_output=True, check=True).stdout)
        self.environment = {**os.environ, "KUBECONFIG": str(self.config)}

    def start(self, *arguments, input_=None, timeout=120):
        return subprocess.run(
            ["kubectl", *arguments],
            env=self.environment,
            input=input_,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def run(self, *arguments, input_=None, timeout=120):
        """Run kubectl, which must succeed; return what it printed."""
        done = self.start(*arguments, input_=input_, timeout=timeout)
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}{done.stdout}"
        return done.stdout

    def get(self, *arguments):
        return json.loads(self.run("get", *arguments, "--output", "json"))["items"]

    def nodes(self):
        """Return the names of all nodes, and whether each is ready and schedulable."""
        found = {}
        for node in self.get("nodes"):
            conditions = {each["type"]: each["status"] for each in node["status"]["conditions"]}
            taints = {taint["key"] for taint in node["spec"].get("taints", [])}
            found[node["metadata"]["name"]] = conditions.get("Ready") == "True" and not any(
                key.startswith("node.kubernetes.io/") for key in taints
            )
        return found

    def pods(self, name):
        pods = self.get("pods", "--selector", f"app.kubernetes.io/name={name}")
        return [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]

    def ready_pods(self, name):
        """Return the names of a workload's ready pods, each with its node's name."""
        return {
            pod["metadata"]["name"]: pod["spec"]["nodeName"]
            for pod in self.pods(name)
            if any(each["type"] == "Ready" and each["status"] == "True" for each in pod["status"].get("conditions", []))
        }

    def until(self, condition, what, timeout=300):
        """Wait until a condition holds; an API server that is away counts as not yet."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                if condition():
                    return
            except (AssertionError, subprocess.TimeoutExpired) as error:
                last = error
            else:
                last = None
            assert time.monotonic() < deadline, f"not within {timeout} s: {what}; {last or self._overview()}"
            time.sleep(0.5)

    def _overview(self):
        done = self.start("get", "pods,nodes", "--output", "wide")
        return f"{done.stdout}\n{self.start('events', '--types', 'Warning').stdout[-3000:]}"


def on_node(node, *action):
    """Let something happen to a node by the command in NODE."""
    command = [*shlex.split(os.environ[NODE]), node, *action]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}{done.stdout}"
