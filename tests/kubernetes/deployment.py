"""The project in a cluster, deployed by the commands of docs/kubernetes.md."""

import os
import re
import shlex
import shutil
import signal
import subprocess

import yaml

from tests.documents import blocks
from tests.kubernetes.kubectl import Kubectl
from tests.manifests import containers, overlay, templates
from tests.paths import ROOT
from tests.ports import free_port

PAGE = "docs/kubernetes.md"
NAMESPACE = "sostenuto"
GATEWAY, SERVER = "gateway", "tensorflow-serving"
# Made by tests/kubernetes/run.
DATABASE_IMAGE = "sostenuto-stand-in/postgresql"
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
# The exporter's arguments, with which the first training run takes seconds.
SHORT = ["--max-minutes=0.3", "--units=128"]
KEY = re.compile(r"\bost-\S+")


def tensorflow_serving_image():
    (name,) = {each["image"] for each in containers(templates(overlay("cpu"))[SERVER])}
    return name


class Deployment:
    """The project in the namespace of the page."""

    def __init__(self, folder):
        """Copy the files that git tracks to `sostenuto` in a directory, as the page assumes."""
        self.kubectl = Kubectl(folder)
        self.checkout, self.mine = folder / "sostenuto", folder / "my-sostenuto"
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
        self.key = ""

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
        is_built = os.environ.get("IMAGES") != "given"
        is_serving_built = bool(os.environ.get("TENSORFLOW_MODEL_SERVER"))
        if is_built:
            self.run_block("docker build ")
        if is_built and is_serving_built:
            (exporter,) = (image for image in images if "exporter" in image)
            make = ". tests/compose/docker.sh && make_serving"
            command = f"{make} {tensorflow_serving_image()} {exporter}"
            subprocess.run(["sh", "-euc", command, "tests/kubernetes"], cwd=ROOT, check=True, timeout=PATIENCE_S)
        if is_serving_built:
            images.append(tensorflow_serving_image())
        images.append(DATABASE_IMAGE)
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
        """Run the commands of the page's section `Install`, in order."""
        self.build()
        self.write_kustomization()
        printed = self.run_block("kubectl create namespace ")
        (self.key,) = KEY.findall(printed)
        self.kubectl.run("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted")
        self.run_block("kubectl apply -k ../my-sostenuto\nuntil ")
        self.until_steady()

    def require_no_namespace(self):
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
        self.kubectl.until(self.is_steady, "all pods are ready", PATIENCE_S)

    def spread(self):
        """Bring the pods of each workload to different nodes again, if a lost node has driven them together."""
        self.until_steady()
        for name in (GATEWAY, SERVER):
            pods = self.kubectl.ready_pods(name)
            if len(set(pods.values())) == 1:
                self.kubectl.run("delete", "pod", next(iter(pods)), "--wait=false")
        self.until_steady()

    def remove(self):
        """Remove the namespace, without the minute that model servers go on serving."""
        self.kubectl.start("delete", "pods", "--all", "--force", "--grace-period=0")
        self.kubectl.start("delete", "namespace", NAMESPACE, "--wait=false")
