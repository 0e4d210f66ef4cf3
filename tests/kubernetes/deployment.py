"""The project in a cluster, deployed by the commands of docs/kubernetes.md, and load on its gateways.

Knows the page and the objects' names. Does not know what is disturbed.
"""

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import time

import yaml

from tests.documents import blocks
from tests.kubernetes.kubectl import Kubectl
from tests.manifests import containers, overlay, templates
from tests.servers import ROOT, free_port

PAGE = "docs/kubernetes.md"
NAMESPACE = "ostinato"
GATEWAY, SERVER = "gateway", "tensorflow-serving"
PATIENCE_S = 600
# Commands of the page that are not run as written, by their beginning, and the reason.
NOT_RUN = {
    "docker push ": "LOAD brings the images to the nodes",
    "kubectl port-forward ": "does not end: `ask` runs it beside the command after it",
    "curl ": "`ask` runs it",
    "helm ": "needs a network, and Prometheus",
    "kubectl get --raw /apis/external.metrics.k8s.io": "needs the adapter",
    "kubectl get hpa ": "does not end",
    "POD=": "is for the two commands after it",
    'kubectl cp book.txt "${POD#pod/}': "is for the training after it",
    "models train ": "takes minutes",
}
# The exporter's arguments, with which the first training takes seconds.
SHORT = ["--max-minutes=0.3", "--units=128"]
KEY = re.compile(r"\bost-\S+")
# Of load.py: streams that last for seconds.
NUM_WORKERS, NUM_SEEDS, NUM_TOKENS = 12, 24, 20_000


def tensorflow_serving_image():
    """Return the name of TensorFlow Serving's image in the manifests."""
    (name,) = {each["image"] for each in containers(templates(overlay("cpu"))[SERVER])}
    return name


class Deployment:
    """The project in the namespace of the page."""

    def __init__(self, folder):
        """Copy the files that git tracks to `ostinato` in a directory, as the page assumes."""
        self.kubectl = Kubectl(folder)
        self.checkout, self.mine = folder / "ostinato", folder / "my-ostinato"
        self.mine.mkdir()
        listed = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        for name in listed.stdout.splitlines():
            if (ROOT / name).is_file():
                (self.checkout / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, self.checkout / name)
        self.blocks = blocks(PAGE)
        self.key, self.hashes, self._num_loads = "", {}, 0

    def bash(self, text, timeout=PATIENCE_S):
        """Run a command of the page, which must succeed; return what it printed."""
        done = subprocess.run(
            ["bash", "-eu", "-o", "pipefail", "-c", text],
            cwd=self.checkout,
            env=self.kubectl.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == 0, f"{text}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout

    def run_block(self, beginning):
        """Run the commands of the page's block that begins with this text, in one shell; return what they printed."""
        (block,) = (block for block in self.blocks if block.language == "" and block.text.startswith(beginning))
        texts = [command.text for command in block.commands()]
        assert texts, beginning
        return self.bash("\n".join(text for text in texts if not any(map(text.startswith, NOT_RUN))))

    def build(self):
        """Build the images as the page says, and bring them to the nodes."""
        (block,) = (block for block in self.blocks if block.text.startswith("docker build "))
        images = [command.text.split()[-1] for command in block.commands() if command.text.startswith("docker push ")]
        if os.environ.get("IMAGES") != "given":
            self.run_block("docker build ")
            if os.environ.get("TENSORFLOW_MODEL_SERVER"):
                (exporter,) = (image for image in images if "exporter" in image)
                make = ". tests/compose/docker.sh && make_serving"
                command = f"{make} {tensorflow_serving_image()} {exporter}"
                subprocess.run(["sh", "-euc", command, "tests/kubernetes"], cwd=ROOT, check=True, timeout=PATIENCE_S)
                images.append(tensorflow_serving_image())
        if os.environ.get("LOAD"):
            command = [*shlex.split(os.environ["LOAD"]), *images]
            subprocess.run(command, check=True, timeout=PATIENCE_S, capture_output=True)

    def write_kustomization(self):
        """Write the page's kustomization, with the cluster's storage class and a short training."""
        (block, *_) = (block for block in self.blocks if block.language == "yaml")
        content = yaml.safe_load(
            block.text.replace("value: nfs", f"value: {os.environ.get('STORAGE_CLASS', 'shared')}")
        )
        path = "/spec/template/spec/containers/0/args/-"
        patch = [{"op": "add", "path": path, "value": argument} for argument in SHORT]
        content["patches"].append({"target": {"kind": "Job", "name": "exporter"}, "patch": yaml.safe_dump(patch)})
        (self.mine / "kustomization.yaml").write_text(yaml.safe_dump(content))

    def follow_the_page(self):
        """Run the commands of the page's section `Start`, in order."""
        self._require_no_namespace()
        self.build()
        self.write_kustomization()
        printed = self.run_block("kubectl create namespace ")
        (self.key,) = KEY.findall(printed)
        self.kubectl.run("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted")
        self.run_block("kubectl apply -k ../my-ostinato\nuntil ")
        self.until_steady()

    def _require_no_namespace(self):
        """Wait for the namespace of an earlier run to go; one that stays belongs to somebody."""
        phase = ("get", "namespace", NAMESPACE, "--ignore-not-found", "--output", "jsonpath={.status.phase}")
        self.kubectl.until(lambda: self.kubectl.run(*phase) != "Terminating", f"the last {NAMESPACE} is gone")
        assert not self.kubectl.run(*phase), f"there is a namespace {NAMESPACE}"

    def ask(self):
        """Run the page's `port-forward` and, beside it, its request; return the response."""
        (block,) = (block for block in self.blocks if block.text.startswith("kubectl port-forward "))
        forward, request = (command.text for command in block.commands())
        port = free_port()
        running = subprocess.Popen(
            shlex.split(forward.replace("8000:", f"{port}:")),
            env=self.kubectl.environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert "Forwarding from" in running.stdout.readline()
            return self.bash(KEY.sub(f'{self.key}"', request).replace("127.0.0.1:8000", f"127.0.0.1:{port}"))
        finally:
            running.send_signal(signal.SIGTERM)
            running.wait()
            running.stdout.close()

    def is_steady(self):
        """Return whether all nodes, two gateways and two model servers are ready, and no rollout goes on."""
        deployments = [
            each for each in self.kubectl.get("deployments") if each["metadata"]["name"] in (GATEWAY, SERVER)
        ]
        return (
            all(self.kubectl.nodes().values())
            and all(
                each["status"].get("observedGeneration") == each["metadata"]["generation"]
                and each["status"].get("readyReplicas") == each["status"].get("updatedReplicas") == 2
                and each["status"].get("replicas") == 2
                for each in deployments
            )
            and all(len(self.kubectl.ready_pods(name)) == 2 for name in (GATEWAY, SERVER))
        )

    def until_steady(self):
        """Wait until everything is ready."""
        self.kubectl.until(self.is_steady, "all pods are ready", PATIENCE_S)

    def spread(self):
        """Bring the pods of each workload to different nodes again, if a lost node has driven them together."""
        self.until_steady()
        for name in (GATEWAY, SERVER):
            pods = self.kubectl.ready_pods(name)
            if len(set(pods.values())) == 1:
                self.kubectl.run("delete", "pod", next(iter(pods)), "--wait=false")
        self.until_steady()

    def record(self):
        """Stream each seed's text undisturbed, for later loads to compare theirs with."""
        name = self._make_load("--record")
        self.kubectl.until(lambda: self._phase(name) in ("Succeeded", "Failed"), "the undisturbed run has ended")
        self.hashes = self._result(name)["hashes"]
        assert len(self.hashes) == NUM_SEEDS

    @contextlib.contextmanager
    def load(self, avoid=()):
        """Stream from a pod in the cluster, on none of the nodes `avoid`; yield the list that gets the completions."""
        name = self._make_load("--hashes", "/load/hashes.json", "--stop", "/tmp/stop", avoid=avoid)
        begun = "all streams have begun"
        self.kubectl.until(lambda: begun in self.kubectl.run("logs", name), begun, 120)
        completions = []
        yield completions
        touch = "import pathlib; pathlib.Path('/tmp/stop').touch()"
        self.kubectl.until(
            lambda: self.kubectl.run("exec", name, "--", "/usr/bin/python3.13", "-c", touch) == "", "stop"
        )
        self.kubectl.until(lambda: self._phase(name) in ("Succeeded", "Failed"), "the streams have ended")
        completions += self._result(name)["completions"]

    def _phase(self, name):
        return self.kubectl.run("get", "pod", name, "--output", "jsonpath={.status.phase}")

    def _result(self, name):
        text = self.kubectl.run("logs", name)
        assert self._phase(name) == "Succeeded", text
        self.kubectl.run("delete", "pod", name, "--wait=false")
        return json.loads(text.splitlines()[-1])

    def _make_load(self, *arguments, avoid=()):
        self._num_loads += 1
        name = f"load-{self._num_loads}"
        service = json.loads(self.kubectl.run("get", "service", GATEWAY, "--output", "json"))
        (image,) = {pod["spec"]["containers"][0]["image"] for pod in self.kubectl.pods(GATEWAY)}
        program = (ROOT / "tests/kubernetes/load.py").read_text()
        numbers = {"--workers": NUM_WORKERS, "--seeds": NUM_SEEDS, "--tokens": NUM_TOKENS}
        options = [
            "--url",
            f"http://{service['spec']['clusterIP']}",
            *(str(each) for pair in numbers.items() for each in pair),
        ]
        container = {
            "name": "load",
            "image": image,
            "command": ["/usr/bin/python3.13", "/load/load.py", *options, *arguments],
            "env": [
                {"name": "OSTINATO_API_KEY", "value": self.key},
                {"name": "PYTHONPATH", "value": "/ostinato/packages:/ostinato"},
            ],
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
            "volumeMounts": [{"name": "load", "mountPath": "/load"}],
        }
        elsewhere = [{"key": "kubernetes.io/hostname", "operator": "NotIn", "values": sorted(avoid)}]
        terms = {"nodeSelectorTerms": [{"matchExpressions": elsewhere}]}
        pod = {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [container],
            "volumes": [{"name": "load", "configMap": {"name": name}}],
            **(
                {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}}
                if avoid
                else {}
            ),
        }
        files = {"load.py": program, "hashes.json": json.dumps(self.hashes)}
        objects = [
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": files},
            {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": pod},
        ]
        self.kubectl.run(
            "create", "--filename", "-", input_=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        )
        return name

    def remove(self):
        """Remove the namespace, without the minute that model servers go on serving."""
        self.kubectl.start("delete", "pods", "--all", "--force", "--grace-period=0")
        self.kubectl.start("delete", "namespace", NAMESPACE, "--wait=false")


class Disturbed:
    """A disturbance under load: when it began, when all was ready again, and what came of the streams."""

    def __init__(self, name):
        self.name, self.began_at = name, time.time()
        self._began = time.monotonic()
        self.recovery_s = 0.0

    def note_recovery(self):
        """Note that everything is ready again."""
        self.recovery_s = time.monotonic() - self._began

    def row(self, completions):
        """Return the row of the table in docs/scaling.md."""
        outcomes = [each["outcome"] for each in completions]
        counts = [outcomes.count(outcome) for outcome in ("same", "failed", "differed")]
        silence_s = max(each["longest_silence_s"] for each in completions)
        num_resumed = sum(each["num_resumed"] for each in completions)
        cells = [self.name, *counts, num_resumed, f"{silence_s:.0f} s", f"{self.recovery_s:.0f} s"]
        return f"| {' | '.join(map(str, cells))} |"
