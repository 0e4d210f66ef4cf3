"""Load on the gateways: a pod that streams completions during all faults, and their outcomes."""

import json

from tests.paths import ROOT

# Completions that last for seconds.
NUM_THREADS, NUM_SEEDS, NUM_TOKENS = 12, 24, 20_000
IDENTICAL, FAILED, DIFFERED = "identical", "failed", "differed"


class Load:
    """Streams from a pod until `stop`, and compares each text with the first one of its seed."""

    def __init__(self, kubectl, service, key, image):
        """Take the name of the gateways' Service, an API key, and an image that has the SDK."""
        self._kubectl, self._key, self._image = kubectl, key, image
        self._address = kubectl.run("get", "service", service, "--output", "jsonpath={.spec.clusterIP}")
        self._num_pods = 0
        self._pod = self.node = None
        self._hashes = {}

    def record(self):
        """Start, and record the text of each seed, the baseline for later ones. Call it before the first fault."""
        self._start()

        def is_recorded():
            self._hashes = {each["seed"]: each["sha256"] for each in self.completions()}
            return len(self._hashes) == NUM_SEEDS

        self._kubectl.until(is_recorded, "each seed has been streamed")
        errors = [each["error"] for each in self.completions() if each["error"]]
        assert not errors, errors[0]

    def avoid(self, nodes):
        """Move to another node if the pod runs on one of these."""
        if self.node in nodes:
            self.stop()
            self._start(nodes)
            self.in_flight_after(0)

    def completions(self):
        """Return the results of the completions that this pod has finished, in that order."""
        return [json.loads(line) for line in self._kubectl.run("logs", self._pod).splitlines()]

    def in_flight_after(self, number):
        """Wait for the completions in flight; return the results of all after the first `number`."""
        so_far = len(self.completions())
        ended = []

        def have_ended():
            ended[:] = self.completions()
            return len({each["seed"] % NUM_THREADS for each in ended[so_far:]}) == NUM_THREADS

        self._kubectl.until(have_ended, "the completions in flight have ended")
        return ended[number:]

    def outcome(self, completion):
        if completion["error"]:
            return FAILED
        return IDENTICAL if completion["sha256"] == self._hashes[completion["seed"]] else DIFFERED

    def stop(self):
        self._kubectl.run("delete", "pod", self._pod, "--grace-period=1", "--wait=false")

    def _start(self, avoided=()):
        self._num_pods += 1
        self._pod = f"load-{self._num_pods}"
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": self._objects(sorted(avoided))})
        self._kubectl.run("create", "--filename", "-", input_=text)
        self._kubectl.run("wait", "--for=condition=Ready", f"pod/{self._pod}", "--timeout=60s")
        self.node = self._kubectl.run("get", "pod", self._pod, "--output", "jsonpath={.spec.nodeName}")

    def _objects(self, avoided):
        numbers = {"--threads": NUM_THREADS, "--seeds": NUM_SEEDS, "--tokens": NUM_TOKENS}
        container = {
            "name": "load",
            "image": self._image,
            "command": ["/usr/bin/python3.13", "/load/load_generator.py", "--url", f"http://{self._address}"],
            "args": [str(each) for pair in numbers.items() for each in pair],
            "env": [
                {"name": "SOSTENUTO_API_KEY", "value": self._key},
                {"name": "PYTHONPATH", "value": "/sostenuto/packages:/sostenuto"},
            ],
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
            "volumeMounts": [{"name": "load", "mountPath": "/load"}],
        }
        pod = {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [container],
            "volumes": [{"name": "load", "configMap": {"name": self._pod}}],
        }
        if avoided:
            elsewhere = [{"key": "kubernetes.io/hostname", "operator": "NotIn", "values": avoided}]
            terms = {"nodeSelectorTerms": [{"matchExpressions": elsewhere}]}
            pod["affinity"] = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}
        program = (ROOT / "tests/kubernetes/load_generator.py").read_text()
        metadata = {"name": self._pod}
        return [
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"load_generator.py": program}},
            {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod},
        ]
